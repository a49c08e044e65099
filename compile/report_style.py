"""How the report looks: light and dark, on a phone and on paper. Colours are Okabe and Ito's, told apart by any eyes.

No colour stands alone: a cell says its precision, a verdict its word, a bar has its figure beside it.
"""

# No script, no request, no frame: what a label could smuggle in would not run. The page's empty icon keeps a browser
# from asking a server for one.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

CSS = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1a1d21; --dim: #555c66; --line: #d5d9df; --panel: #f4f6f8;
  --bar: #0072b2; --other: #8a929c; --good: #00735a; --bad: #b5420b; --warn: #fdf1d6; --warn-line: #a86b00;
  --float: #dde1e6; --float-ink: #1a1d21;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --ink: #e7eaee; --dim: #a4acb7; --line: #3a4149; --panel: #1d2126;
    --bar: #56b4e9; --other: #7d8691; --good: #2fc79b; --bad: #ff8a52; --warn: #33290f; --warn-line: #e0a020;
    --float: #454c55; --float-ink: #f2f4f6;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 66rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .5rem 0; max-width: 48rem; overflow-wrap: anywhere; }
.dim { color: var(--dim); }
.small, table, dl.facts { font-size: .875rem; }
.lead { font-size: 1.2rem; font-weight: 600; line-height: 1.4; margin: .75rem 0 .25rem; }
a { color: var(--bar); }
nav { margin-top: 1rem; font-size: .875rem; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
nav a { padding: .25rem 0; }
code, pre { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: .85em; }
code { overflow-wrap: anywhere; } code.file { font-size: .8em; }
.word { display: inline-block; max-width: 100%; }
pre { background: var(--panel); padding: .75rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
ul.notes { list-style: none; margin: 1rem 0; padding: 0; }
ul.notes li {
  background: var(--warn); border-left: 4px solid var(--warn-line); padding: .4rem .75rem; margin: .35rem 0;
  border-radius: 0 4px 4px 0; font-size: .9rem; overflow-wrap: anywhere;
}
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1.25rem 0 0;
}
dl.tiles div { background: var(--panel); border-radius: 6px; padding: .6rem .8rem; }
dl.tiles dt { font-size: .8rem; color: var(--dim); }
dl.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.3; overflow-wrap: anywhere; }
dl.tiles dd.small { font-size: .8rem; font-weight: 400; color: var(--dim); }
dl.facts { display: grid; grid-template-columns: fit-content(16rem) 1fr; gap: .25rem 1.25rem; margin: .5rem 0; }
dl.facts dt { color: var(--dim); overflow-wrap: anywhere; }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
caption { text-align: left; color: var(--dim); padding-bottom: .35rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--dim); font-weight: 600; }
tbody th { font-weight: 600; overflow-wrap: anywhere; min-width: 8rem; }
td { overflow-wrap: anywhere; }
th.number { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.reason { overflow-wrap: anywhere; }
.reason { display: block; font-weight: 400; color: var(--dim); }
.tag { display: inline-block; border: 1px solid currentColor; border-radius: 999px; padding: 0 .5em; font-size: .8rem;
  font-weight: 600; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--dim); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0; padding: 0 .9rem; }
details details { border-width: 1px 0 0; border-radius: 0; padding: 0; }
summary { cursor: pointer; padding: .55rem 0; font-weight: 600; }
summary .dim { font-weight: 400; font-size: .875rem; display: inline-block; }
svg.chart { display: block; overflow: visible; min-width: 5rem; }
svg .bar { fill: var(--bar); } svg .bar.other { fill: var(--other); }
svg .bar.good { fill: var(--good); } svg .bar.bad { fill: var(--bad); }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; } svg .dot { fill: var(--bar); }
svg .course { stroke: var(--bar); stroke-width: 2; stroke-linecap: round; }
svg .axis { stroke: var(--line); stroke-width: 1; } svg .limit { stroke: var(--ink); stroke-width: 2; }
svg .reference { stroke: var(--dim); stroke-width: 1.5; stroke-dasharray: 3 2; }
.bars { display: grid; grid-template-columns: 1fr; gap: 0 2.5rem; }
ol.map, ol.map ol { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 3px; }
ol.map { gap: .4rem .8rem; margin: .4rem 0 .75rem; }
.stage { display: block; font-size: .7rem; color: var(--dim); line-height: 1.4; overflow-wrap: anywhere; }
.cell { display: inline-flex; align-items: center; justify-content: center; min-width: 1.75rem; height: 1.5rem;
  max-width: 100%; overflow: hidden; padding: 0 .2rem; border-radius: 3px; border: 1px solid transparent;
  font-size: .75rem; font-weight: 600;
  background: var(--float); color: var(--float-ink); }
.cell.int8 { background: #0072b2; color: #fff; }
.cell.fp16 { background: #e69f00; color: #000; }
.cell.bf16 { background: #cc79a7; color: #000; }
.cell.taken { border: 2px solid var(--ink); text-decoration: underline; }
ol.timeline, ol.timeline ol { list-style: none; margin: 0; padding: 0; }
ol.timeline { margin: .4rem 0 .9rem; } ol.timeline ol { display: flex; height: 1.5rem; }
.phase { flex: 1 1 0; min-width: 1px; overflow: hidden; text-align: center; font-size: .75rem; font-weight: 600;
  line-height: 1.5rem; color: #000; }
.p0 { background: #56b4e9; } .p1 { background: #e69f00; } .p2 { background: #009e73; } .p3 { background: #f0e442; }
.p4 { background: #cc79a7; } .p5 { background: #d55e00; } .p6 { background: #9fb6d9; } .p7 { background: #bbbbbb; }
.key { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; font-size: .8rem; color: var(--dim); margin: .4rem 0; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }
@media screen and (min-width: 64rem) {
  .bars { grid-template-columns: 1fr 1fr; }
  code.file { overflow-wrap: normal; white-space: nowrap; }
}
@media screen and (max-width: 52rem) {
  body { padding: 1rem .9rem 2rem; }
  h1 { font-size: 1.45rem; }
  dl.tiles { grid-template-columns: 1fr 1fr; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: .45rem; }
  table.cards, table.cards :is(caption, tbody, tr, th, td) { display: block; width: auto; }
  table.cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table.cards tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  table.cards th, table.cards td { border: 0; padding: .1rem 0; text-align: left; white-space: normal; }
  table.cards td { display: flex; gap: .75rem; }
  table.cards td::before { content: attr(data-label); color: var(--dim); flex: 0 0 8.5rem; }
  table.cards td.none { display: none; }
  table.cards td svg { flex: 1; }
}
@media print {
  :root { color-scheme: light; font-size: 13px; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  tbody th { min-width: 6rem; } th, td { padding-right: .5rem; }
  nav { display: none; }
  details::details-content { content-visibility: visible; height: auto; block-size: auto; }
  tr, li, dl.tiles div { break-inside: avoid; }
  h2, h3, summary { break-after: avoid; }
  .cell, .tag, svg, ul.notes li, dl.tiles div, pre { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
