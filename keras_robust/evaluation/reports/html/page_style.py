"""The style sheet of the HTML report, for light, dark, wide, narrow and printed pages."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #5c6570;
  --line: #d5dae0; --panel: #f5f7f9; --accent: #0b62c4; --warning: #b3261e; --good: #1a7f37;
  --right: 26 127 55; --wrong: 196 43 28; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --paper: #14171b; --faint: #9aa4af; --line: #373e47; --panel: #1d2228;
    --accent: #6cb0ff; --warning: #ff8d80; --good: #5fd07e; --right: 63 185 100;
    --wrong: 230 90 75; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
p, ul { margin: .4rem 0; }
.faint, figcaption, caption { color: var(--faint); font-size: .9rem; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; }
.figures > div { flex: 1 1 13rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px; padding: .7rem 1rem; }
.figures dt { color: var(--faint); font-size: .9rem; }
.figures dd { margin: 0; }
.figures strong { display: block; font-size: 2rem; line-height: 1.25; }
.warnings { border: 1px solid var(--warning); border-left-width: 6px; border-radius: 8px;
  padding: .7rem 1rem; margin: 1.2rem 0; }
.warnings h2 { margin: 0; font-size: 1.05rem; color: var(--warning); }
.warnings ul { padding-left: 1.2rem; }
.passed { color: var(--good); }
.failed { color: var(--warning); font-weight: 600; }
.skipped { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; max-width: calc(100vw - 2rem); }
th, td { text-align: right; vertical-align: top; padding: .3rem .7rem;
  border-bottom: 1px solid var(--line); }
th:first-child, td.text, th.text { text-align: left; }
tbody th { font-weight: 500; min-width: 5.5rem; }
th .faint { font-weight: 400; max-width: 46rem; }
thead th { color: var(--faint); font-weight: 500; font-size: .9rem; vertical-align: bottom; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem 2rem; align-items: start; }
.two > * { min-width: 0; }
.classes { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: start; }
.classes > * { flex: 0 1 auto; min-width: 0; }
figure { margin: 0; max-width: 36rem; }
svg { width: 100%; height: auto; display: block; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.heat td { text-align: center; min-width: 2.6rem; padding: .3rem; border: 1px solid var(--line); }
.heat th { white-space: nowrap; padding: .3rem .5rem; }
.heat thead th { text-align: center; }
.examples td { text-align: left; padding: .5rem; }
.examples img { display: block; width: 9rem; max-width: 21vw; border: 1px solid var(--line);
  image-rendering: pixelated; }
.settings { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
.settings dt { color: var(--faint); }
.settings dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 34rem) {
  .settings { grid-template-columns: 1fr; gap: 0; }
  .settings dd { margin-bottom: .5rem; }
  th, td { padding: .3rem .4rem; }
  .examples td, .examples th { padding: .3rem .2rem; font-size: .8rem; }
}
@media print { body { max-width: none; } .wide { overflow: visible; } }
"""
