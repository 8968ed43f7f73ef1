// The tab Unlearn in the browser: progress while it runs, Stop, and the way to txt2img.

var unlearnTask = "";

function unlearnElement(name) {
    return gradioApp().querySelector("#unlearn_" + name);
}

function unlearnShowRunning(running) {
    unlearnElement("results").classList.toggle("unlearn-running", running);
    unlearnElement("generate").disabled = running;
    // The host's Esc and Ctrl+Enter look at this style.
    unlearnElement("interrupt").style.display = running ? "block" : "";
}

// Called with the values of inputs and outputs; only the first `count` are sent.
function unlearnForget(values, count) {
    var inputs = values.slice(0, count);
    unlearnTask = randomId();
    inputs[0] = unlearnTask;
    unlearnShowRunning(true);
    requestProgress(unlearnTask, unlearnElement("progress"), unlearnElement("preview"), function() {
        unlearnShowRunning(false);
    });
    return inputs;
}

function unlearnStop() {
    return [unlearnTask];
}

function unlearnSend(tag) {
    var prompt = gradioApp().querySelector("#txt2img_prompt textarea");
    if (tag && prompt && !prompt.value.includes(tag)) {
        prompt.value = prompt.value ? prompt.value + " " + tag : tag;
        updateInput(prompt);
    }
    switch_to_txt2img();
    return [];
}

// Another checkpoint may have been chosen since.
onUiTabChange(function() {
    var content = get_uiCurrentTabContent();
    if (content && content.id === "tab_unlearn") {
        unlearnElement("refresh").click();
    }
});
