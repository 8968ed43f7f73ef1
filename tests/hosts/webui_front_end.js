// What the hosts' own scripts offer to extensions, as far as ours uses it.

function gradioApp() {
    return document;
}

function randomId() {
    return "task(" + Math.random().toString(36).slice(2) + ")";
}

function updateInput(target) {
    target.dispatchEvent(new Event("input", {bubbles: true}));
}

function tabButtons() {
    return Array.from(document.querySelectorAll("#tabs > div:first-child button"));
}

function switch_to_txt2img() {
    tabButtons()[0].click();
}

function get_uiCurrentTabContent() {
    return document.querySelector('#tabs > .tabitem[id^=tab_]:not([style*="display: none"])');
}

var tabChangeCallbacks = [];

function onUiTabChange(callback) {
    tabChangeCallbacks.push(callback);
}

var shownTab = null;
document.addEventListener("DOMContentLoaded", function() {
    new MutationObserver(function() {
        var content = get_uiCurrentTabContent();
        if (content && content.id !== shownTab) {
            shownTab = content.id;
            tabChangeCallbacks.forEach(callback => callback());
        }
    }).observe(document, {childList: true, subtree: true, attributes: true});
});

async function askProgress(question) {
    var answer = await fetch("./internal/progress", {
        method: "POST",
        headers: {"Content-Type": "application/json"},
        body: JSON.stringify(question),
    });
    return answer.json();
}

// A bar before `container` and a preview inside `gallery`, both gone at the end.
async function requestProgress(task, container, gallery, atEnd) {
    var bar = document.createElement("div");
    bar.className = "progressDiv";
    container.parentNode.insertBefore(bar, container);
    var preview = document.createElement("div");
    preview.className = "livePreview";
    var seen = -1;
    var wasActive = false;
    while (true) {
        var answer = await askProgress({id_task: task, id_live_preview: seen});
        wasActive = wasActive || answer.active;
        if (answer.completed || (wasActive && !answer.active && !answer.queued)) {
            break;
        }
        bar.textContent = (answer.textinfo || "") + " " + Math.round(100 * answer.progress) + "%";
        if (answer.live_preview) {
            seen = answer.id_live_preview;
            preview.innerHTML = '<img src="' + answer.live_preview + '">';
            gallery.insertBefore(preview, gallery.firstElementChild);
        }
        await new Promise(resolve => setTimeout(resolve, 100));
    }
    bar.remove();
    preview.remove();
    atEnd();
}
