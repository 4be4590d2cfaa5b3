"""The look of a report: its style sheet, in light and dark, and the few lines of script for pointing and toggling."""

# Colours of Okabe and Ito (2008), told apart by colour-blind eyes, darker on white and lighter on black.
CSS = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4;
  --heat: #0b5c9c; --on-heat: #fff; --warn: #8a4b00; --mark: #fff3c4;
  --c0: #0072b2; --c1: #d55e00; --c2: #00805d; --c3: #b0508a; --c4: #8a6d00; --c5: #4a4f55; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #181c22; --ink: #e6e9ed; --soft: #9aa4af;
  --line: #323a44; --heat: #6cc0f5; --on-heat: #06121c; --warn: #f0b35c; --mark: #4a3d10;
  --c0: #5bb8f0; --c1: #ff8f4d; --c2: #2cc99b; --c3: #ea9fca; --c4: #eedd55; --c5: #b9c0c8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 14px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 20px 60px; }
h1 { font-size: 22px; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 10px; }
h3 { font-size: 13px; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
h4 { font-size: 13px; margin: 0 0 6px; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 4px 0; }
.part { margin: 18px 0 8px; } h2 + .part { margin-top: 0; } h1 + .soft { margin-bottom: 14px; }
.soft, .note { color: var(--soft); }
.note { font-size: 12px; overflow-wrap: anywhere; }
.warn { color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(370px, 100%), 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; min-width: 0; }
.wide { margin-bottom: 14px; overflow-x: auto; }
.head { display: flex; justify-content: space-between; align-items: start; gap: 8px; }
.run h3 { font-size: 15px; }
.run dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0 0; }
.run dt { color: var(--soft); } .run dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; background: currentColor;
  margin-right: 7px; }
.state { border: 1px solid currentColor; border-radius: 99px; padding: 0 9px; font-size: 12px; white-space: nowrap; }
.finished { color: var(--c2); } .running { color: var(--c0); } .interrupted, .pruned { color: var(--warn); }
.failed, .lost { color: var(--c1); } .unknown { color: var(--soft); }
.bar { height: 5px; border-radius: 3px; background: var(--line); margin-top: 8px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--c0); }
code, pre { font: 12px/1.5 ui-monospace, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { margin: 0; padding: 10px 12px; background: var(--page); border: 1px solid var(--line); border-radius: 6px;
  overflow: auto; max-height: 460px; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
details > :not(summary) { margin-top: 8px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: break-word; }
th { font-weight: 600; color: var(--soft); font-size: 12px; }
td.n, th.n { text-align: right; white-space: nowrap; overflow-wrap: normal; } tr:last-child > td { border-bottom: 0; }
.differs td { background: var(--mark); }
.scroll { max-height: 420px; overflow: auto; }
.chart svg { display: block; width: 100%; height: auto; margin-top: 6px; }
.chart .log, .logarithmic .linear { display: none; } .logarithmic .log { display: inline; }
.toggle { font: inherit; font-size: 12px; line-height: 1.4; color: var(--soft); background: none;
  border: 1px solid var(--line); border-radius: 5px; padding: 0 8px; cursor: pointer; }
.logarithmic .toggle, .toggle.on { color: var(--card); background: var(--soft); }
.grid { stroke: var(--line); stroke-width: .8; } .axis { stroke: var(--soft); stroke-width: 1; }
.tick, .label { fill: var(--soft); font: 11px system-ui, sans-serif; } .label { font-size: 11.5px; }
.count { font: 11px system-ui, sans-serif; fill: var(--ink); } .count.on { fill: var(--on-heat); }
.cell { fill: var(--heat); stroke: var(--line); stroke-width: .5; }
.faint { opacity: .28; stroke-width: 1; } .dot { fill: var(--card); stroke: currentColor; stroke-width: 1.5; }
.legend { list-style: none; margin: 4px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 14px; }
.legend li { font-size: 12px; overflow-wrap: anywhere; } .legend svg { display: inline-block; width: 22px; height: 8px;
  margin: 0 6px 0 0; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); }
.tip { position: fixed; pointer-events: none; z-index: 9; background: var(--card); border: 1px solid var(--soft);
  border-radius: 6px; padding: 5px 9px; font-size: 12px; display: none; max-width: 320px; overflow-wrap: anywhere;
  box-shadow: 0 2px 9px #0004; font-variant-numeric: tabular-nums; }
.figures { display: flex; flex-wrap: wrap; gap: 20px; align-items: start; }
.figures > * { min-width: 0; max-width: 100%; }
.wide > .figures { margin-top: 10px; } .figures .chart { width: 360px; max-width: 100%; }
.figures svg { display: block; max-width: 100%; height: auto; }
.gallery { display: flex; flex-wrap: wrap; gap: 10px; margin: 4px 0 14px; align-items: start; }
.gallery figure { margin: 0; max-width: 224px; } .gallery img { display: block; min-width: 72px; max-width: 100%;
  image-rendering: pixelated; border: 1px solid var(--line); }
.gallery figcaption { color: var(--soft); font-size: 11px; line-height: 1.3; width: 0; min-width: 100%;
  overflow-wrap: anywhere; }
@media print { .toggle { display: none; } body { background: #fff; } }
"""

# Names reach the page by textContent only.
JS = """
const box = {left: LEFT, right: WIDTH - RIGHT, top: TOP, bottom: HEIGHT - BOTTOM};
const tip = document.body.appendChild(document.createElement('div'));
tip.className = 'tip';
const svg = (tag, values) => {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const key in values) node.setAttribute(key, values[key]);
  return node;
};
const say = v => v === 0 || Math.abs(v) >= 1e-3 && Math.abs(v) < 1e6 ? String(+v.toPrecision(6)) : v.toExponential(4);
function nearest(xs, x) {
  let a = 0, b = xs.length - 1;
  while (b - a > 1) { const m = (a + b) >> 1; if (xs[m] < x) a = m; else b = m; }
  return x - xs[a] < xs[b] - x ? a : b;
}
for (const card of document.querySelectorAll('[data-chart]')) {
  const data = JSON.parse(card.dataset.chart), picture = card.querySelector('svg[viewBox]');
  const hover = picture.querySelector('.hover'), button = card.querySelector('.toggle');
  if (button) button.onclick = () => card.classList.toggle('logarithmic');
  picture.onpointerleave = () => { tip.style.display = 'none'; hover.replaceChildren(); };
  picture.onpointermove = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    const log = card.classList.contains('logarithmic'), [x0, x1] = data.x, [y0, y1] = data.y[log ? 'log' : 'linear'];
    const wanted = x0 + (at.x - box.left) / (box.right - box.left) * (x1 - x0);
    const px = x => box.left + (x - x0) / (x1 - x0) * (box.right - box.left);
    const py = y => box.bottom - ((log ? Math.log10(y) : y) - y0) / (y1 - y0) * (box.bottom - box.top);
    hover.replaceChildren(); tip.replaceChildren();
    data.curves.forEach(curve => {
      const i = nearest(curve.x, wanted), x = curve.x[i], y = curve.y[i], far = (x1 - x0) / 40;
      if (wanted > curve.x[curve.x.length - 1] + far || wanted < curve.x[0] - far) return;
      if (!tip.firstChild) {
        hover.append(svg('path', {class: 'axis', d: `M${px(x)} ${box.top}V${box.bottom}`, 'stroke-dasharray': '2 3'}));
      }
      hover.append(svg('circle', {cx: px(x), cy: py(y), r: 3.5, fill: 'currentColor', class: 'c' + curve.colour}));
      const line = tip.appendChild(document.createElement('div'));
      const name = line.appendChild(document.createElement('span'));
      name.className = 'c' + curve.colour; name.textContent = curve.label;
      line.append(`  ${say(y)} at ${say(x)}`);
    });
    tip.style.display = 'block';
    tip.style.left = Math.max(0, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + 'px';
    tip.style.top = Math.max(0, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)) + 'px';
  };
}
const all = document.getElementById('all-log');
if (all) all.onclick = () => {
  const on = all.classList.toggle('on');
  for (const card of document.querySelectorAll('[data-chart]'))
    if (card.querySelector('.toggle')) card.classList.toggle('logarithmic', on);
};
"""


def script(**sizes: float) -> str:
    """The script with the numbers of the charts' layout."""
    text = JS
    for name, value in sizes.items():
        text = text.replace(name, str(value))
    return text
