// Shows the text that a node gives on the node itself: the frontend does so for pictures only.

import { app } from "../../scripts/app.js"
import { ComfyWidgets } from "../../scripts/widgets.js"

const NODES = ["AnimeSketchNetInfo", "AnimeSketchNetSaveSketch"]

function show(node, text) {
  let widget = node.widgets?.find((widget) => widget.name === "shown")
  if (!widget) {
    widget = ComfyWidgets.STRING(node, "shown", ["STRING", { multiline: true }], app).widget
    widget.serialize = false // it is no input: neither saved nor sent
    widget.options.serialize = false
    if (widget.element) widget.element.readOnly = true
    const [width, height] = node.size
    node.setSize([Math.max(width, 320), Math.max(height, Math.min(60 + 14 * text.split("\n").length, 340))])
  }
  widget.value = text
}

app.registerExtension({
  name: "AnimeSketchNet.shownText",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return
    const onExecuted = nodeType.prototype.onExecuted
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.call(this, output)
      if (output?.text) show(this, output.text.join("\n"))
    }
  },
})
