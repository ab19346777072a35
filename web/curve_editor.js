// Alpha over Steps: the curve is drawn on the node, and its points are moved with the mouse.

import { app } from "../../scripts/app.js"

const SVG = "http://www.w3.org/2000/svg"
const WIDTH = 300
const HEIGHT = 120
const MARGIN = 10
const CUSTOM = "custom"
const HELP = "Drag a point; double-click to add one, right-click to remove one."

function element(name, attributes) {
  const made = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  return made
}

// "0:1, 0.5:0" as [[0, 1], [0.5, 0]]; null while somebody is typing something else.
function parse(text) {
  const points = text
    .split(/[,;\n]/)
    .filter((piece) => piece.trim())
    .map((piece) => piece.split(":").map(Number))
  const good = points.every((point) => point.length === 2 && point.every(Number.isFinite))
  return good && points.length ? points : null
}

const format = (points) => points.map(([x, y]) => `${+x.toFixed(2)}:${+y.toFixed(2)}`).join(", ")

const clamp = (value, least, most) => Math.min(Math.max(value, least), most)

class CurveEditor {
  constructor(node, presets) {
    const widget = (name) => node.widgets.find((widget) => widget.name === name)
    this.preset = widget("preset")
    this.points = widget("points")
    this.presets = presets
    this.svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "animesketchnet-curve" })
    this.svg.style.cssText = "width: 100%; background: #222; border-radius: 4px; touch-action: none"
    this.svg.addEventListener("dblclick", (event) => this.add(event))
    for (const watched of [this.preset, this.points]) this.watch(watched)
    node.addDOMWidget("editor", "ANIMESKETCHNET_CURVE_EDITOR", this.svg, {
      serialize: false, // it shows the other two widgets: neither saved nor sent
      getMinHeight: () => HEIGHT,
      getMaxHeight: () => 2 * HEIGHT,
    }).serialize = false
    this.draw()
  }

  watch(widget) {
    const callback = widget.callback
    widget.callback = (...values) => {
      callback?.apply(widget, values)
      this.draw()
    }
  }

  curve() {
    return parse(this.preset.value === CUSTOM ? this.points.value : this.presets[this.preset.value])
  }

  change(points) {
    this.preset.value = CUSTOM
    this.points.value = format(points)
    this.draw()
    app.graph.setDirtyCanvas(true, true)
  }

  // Pixels of a point, and back.
  place([x, y]) {
    return [
      MARGIN + x * (WIDTH - 2 * MARGIN),
      HEIGHT - MARGIN - (y / this.top) * (HEIGHT - 2 * MARGIN),
    ]
  }

  at(event) {
    const mouse = new DOMPoint(event.clientX, event.clientY)
    const { x, y } = mouse.matrixTransform(this.svg.getScreenCTM().inverse())
    return [
      clamp((x - MARGIN) / (WIDTH - 2 * MARGIN), 0, 1),
      clamp((HEIGHT - MARGIN - y) / (HEIGHT - 2 * MARGIN), 0, 1) * this.top,
    ]
  }

  draw() {
    const points = this.curve()
    this.svg.style.opacity = points ? 1 : 0.3
    if (!points) return
    this.top = Math.max(1, ...points.map(([, y]) => y))
    const line = [[0, points[0][1]], ...points, [1, points.at(-1)[1]]].map((p) => this.place(p))
    const title = element("title", {})
    title.textContent = HELP
    this.svg.replaceChildren(
      title,
      element("path", { d: `M${MARGIN} ${HEIGHT - MARGIN}H${WIDTH - MARGIN}`, stroke: "#666" }),
      element("polyline", { points: line.join(" "), fill: "none", stroke: "#9cf", "stroke-width": 2 }),
      ...points.map((point, index) => this.handle(point, index)),
    )
  }

  handle(point, index) {
    const [cx, cy] = this.place(point)
    const circle = element("circle", { cx, cy, r: 6, fill: "#fff", cursor: "grab" })
    circle.addEventListener("pointerdown", (event) => {
      event.stopPropagation() // or the canvas would drag the node
      if (event.button === 0) this.drag(event.pointerId, index)
    })
    circle.addEventListener("contextmenu", (event) => {
      event.preventDefault()
      event.stopPropagation()
      const points = this.curve()
      if (points.length > 1) this.change(points.toSpliced(index, 1))
    })
    return circle
  }

  drag(pointer, index) {
    const move = (event) => {
      event.stopPropagation()
      const points = this.curve()
      const [x, y] = this.at(event)
      points[index] = [clamp(x, points[index - 1]?.[0] ?? 0, points[index + 1]?.[0] ?? 1), y]
      this.change(points)
    }
    // Captured, the pointer's events come here whatever the canvas or the node does with others.
    this.svg.setPointerCapture(pointer)
    this.svg.addEventListener("pointermove", move)
    const end = () => this.svg.removeEventListener("pointermove", move)
    this.svg.addEventListener("lostpointercapture", end, { once: true })
  }

  add(event) {
    event.stopPropagation()
    const added = this.at(event)
    this.change([...this.curve(), added].sort(([a], [b]) => a - b))
  }
}

app.registerExtension({
  name: "AnimeSketchNet.curveEditor",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== "AnimeSketchNetAlphaOverSteps") return
    const { presets } = nodeData.input.required.points[1]
    const { onNodeCreated, onConfigure } = nodeType.prototype
    nodeType.prototype.onNodeCreated = function (...values) {
      onNodeCreated?.apply(this, values)
      this.curveEditor = new CurveEditor(this, presets)
    }
    nodeType.prototype.onConfigure = function (...values) {
      onConfigure?.apply(this, values)
      this.curveEditor.draw()
    }
  },
})
