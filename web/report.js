// Draws on this pack's nodes what they say. It stays when the job ends and, kept in the node's
// properties, after a reload; what a node hides is not kept, as properties are saved with workflows.

import { app } from "../../scripts/app.js"

const NAME = "unlearn_said"
const PROGRESS_TEXT = "$$node-text-preview"
const LINE = 16
const CURVE = 44
const LEAST_LINES = 8
const STYLE = `
    box-sizing: border-box; overflow: auto; padding: 6px 8px; border-radius: 6px; cursor: text;
    font: 12px/${LINE}px sans-serif; white-space: pre-wrap; overflow-wrap: anywhere;
    user-select: text; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);
`

function isOurs(node) {
    return node?.comfyClass?.startsWith("Unlearn")
}

function curveOf(losses) {
    const low = Math.min(...losses)
    const span = Math.max(...losses) - low || 1
    const points = losses.map((loss, step) => `${step},${1 - (loss - low) / span}`)
    const svg = (name, attributes) => {
        const element = document.createElementNS("http://www.w3.org/2000/svg", name)
        for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
        return element
    }
    const title = svg("title", {})
    title.textContent = "the loss of every step"
    const curve = svg("svg", {
        viewBox: `0 0 ${losses.length - 1} 1`,
        preserveAspectRatio: "none",
        style: `display: block; width: 100%; height: ${CURVE}px; padding: 2px 0; overflow: visible`,
    })
    const line = svg("polyline", {
        points: points.join(" "),
        fill: "none",
        stroke: "currentColor",
        "stroke-width": 1.5,
        "vector-effect": "non-scaling-stroke",
    })
    curve.append(title, line)
    return curve
}

function heightOf(node, { text, losses }, mostLines) {
    const letters = Math.max(20, (node.size[0] - 50) / 6)
    const lines = text.split("\n").map((line) => Math.ceil(line.length / letters) || 1)
    const height = LINE * Math.min(mostLines, lines.reduce((sum, count) => sum + count, 0))
    return height + (losses.length > 1 ? CURVE : 0) + 34
}

function find(node, name) {
    return node.widgets?.find((widget) => widget.name === name)
}

function remove(node, name) {
    const widget = find(node, name)
    if (widget) node.removeWidget(widget)
}

function add(node, said) {
    const element = document.createElement("div")
    element.said = said
    element.className = NAME
    element.style.cssText = STYLE
    element.tabIndex = 0
    element.dataset.captureWheel = "true"
    const widget = node.addDOMWidget(NAME, NAME, element, {
        serialize: false,
        hideOnZoom: false,
        getMinHeight: () => heightOf(node, element.said, LEAST_LINES),
        getMaxHeight: () => heightOf(node, element.said, Infinity),
    })
    widget.serialize = false
    return widget
}

function draw(node, { text = "", losses = [] }) {
    if (!text) return remove(node, NAME)
    const said = { text, losses }
    const { element } = find(node, NAME) ?? add(node, said)
    element.said = said
    element.replaceChildren(text, ...(losses.length > 1 ? [curveOf(losses)] : []))
    const [width, height] = node.size
    node.setSize([width, Math.max(height, node.computeSize()[1])])
    node.setDirtyCanvas(true, true)
}

function show(node, output) {
    const [text] = output?.text ?? []
    if (text === undefined) return
    const { losses = [], hidden = true } = output.unlearn?.[0] ?? {}
    remove(node, PROGRESS_TEXT)
    draw(node, { text, losses })
    if (text && !hidden) node.properties[NAME] = { text, losses }
    else delete node.properties[NAME]
}

// The page stores the workflow, for the next reload, only when it is told of a change.
function storeWorkflow() {
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
    if (tracker?.captureCanvasState) tracker.captureCanvasState()
    else tracker?.checkState?.()
}

app.registerExtension({
    name: "SDUnlearn.Report",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("Unlearn")) return
        const { onExecuted, onConfigure } = nodeType.prototype
        nodeType.prototype.onExecuted = function (output) {
            onExecuted?.apply(this, arguments)
            show(this, output)
            storeWorkflow()
        }
        nodeType.prototype.onConfigure = function () {
            onConfigure?.apply(this, arguments)
            draw(this, this.properties[NAME] ?? {})
        }
    },
    // Called when the user comes back to a workflow that ran meanwhile.
    onNodeOutputsUpdated(outputs) {
        for (const [id, output] of Object.entries(outputs)) {
            const node = app.graph?.getNodeById(id)
            if (isOurs(node)) show(node, output)
        }
    },
})
