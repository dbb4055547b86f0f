"""What the page of an evaluation looks like, and the little that it does: order the objects, and show all of them."""

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #f4f5f7; color: #1c2128; font: 15px/1.45 system-ui,"Segoe UI",Roboto,"Liberation Sans",sans-serif }
main { max-width: 1280px; margin: 0 auto; padding: 20px 24px 60px }
h1 { font-size: 26px; margin: 0 }
h2 { font-size: 20px; margin: 0 0 8px }
h3 { font-size: 16px; margin: 14px 0 6px }
h4 { font-size: 13px; margin: 0 0 2px; font-weight: 600 }
.facts { color: #59636e; margin: 2px 0 14px }
section,.gains { background: #fff; border: 1px solid #dfe2e6; border-radius: 8px; padding: 16px 18px; margin: 0 0 16px }
.verdicts { display: flex; flex-wrap: wrap; gap: 14px; background: none; border: 0; padding: 0 }
.verdicts article { flex: 1 1 320px; background: #fff; border: 0 solid; border-left-width: 8px; border-radius: 8px; padding: 14px 18px }
.verdicts h2 { font-size: 14px; color: #59636e; margin: 0; font-weight: 600 }
.winner { font-size: 26px; font-weight: 700; margin: 2px 0 0; line-height: 1.2 }
.lead { font-size: 16px; margin: 0 0 6px }
.verdicts p { margin: 4px 0 6px }
.badge { display: inline-block; border-radius: 12px; padding: 1px 10px; font-size: 13px; font-weight: 600 }
.sure { background: #d6f1e0; color: #0d5c34 }
.open { background: #fdeec4; color: #6b4a00 }
.few { background: #e6e8eb; color: #40474f }
.gains h3 { margin: 0 0 4px }
.gains ul { margin: 0; padding-left: 18px }
.problems { border-color: #e3a49c; background: #fff5f3 }
.problems summary { font-weight: 700; color: #9b1c10 }
summary { cursor: pointer; padding: 4px 0; font-weight: 600 }
.bad { color: #b3261e }
.absent,.notes { color: #59636e; font-size: 13px; margin: 2px 0 }
figure { margin: 0 0 14px }
figcaption { font-weight: 600; margin-bottom: 2px }
svg { max-width: 100%; height: auto; display: block }
svg text { font-size: 13px; fill: #1c2128 }
svg .tick { font-size: 12px; fill: #59636e; text-anchor: middle }
svg .left { font-size: 12px; fill: #59636e; text-anchor: end }
svg .name { text-anchor: end }
svg .value { font-variant-numeric: tabular-nums }
.grid { stroke: #e3e6ea }
.zero { stroke: #1c2128; stroke-width: 1.5 }
.floor { stroke: #59636e; stroke-dasharray: 5 4 }
.whisker { stroke-width: 3; stroke-linecap: round; opacity: .55 }
.thin { stroke-width: 2; opacity: .45 }
.curves { display: flex; flex-wrap: wrap; gap: 18px 28px }
.legend span { margin-right: 18px; white-space: nowrap }
.legend i,.dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
th,td { padding: 5px 12px 5px 0; text-align: left; border-bottom: 1px solid #e8eaed; vertical-align: top }
th { font-size: 13px; color: #40474f }
td small { display: block; color: #59636e; white-space: nowrap }
.controls label { margin-right: 14px }
.scale { font-size: 13px }
.scale b { font-weight: 600 }
.ramp { display: inline-block; width: 150px; height: 12px; margin: 0 8px; border-radius: 3px }
.patch { display: inline-block; width: 14px; height: 12px; margin: 0 6px 0 18px; border-radius: 3px }
.card { border-top: 2px solid #dfe2e6; padding: 10px 0 14px }
.given { display: flex; flex-wrap: wrap; gap: 4px 18px }
.views { color: #59636e; border-bottom: 1px solid #dfe2e6; margin: 4px 0 }
.columns { display: flex; flex-wrap: wrap; gap: 8px 22px }
.column { flex: 1 1 560px; min-width: 0 }
.row { margin: 6px 0 }
.row img { display: block; max-width: 100%; height: auto; border: 1px solid #e8eaed; background: #fff }
.numbers { margin: 0 0 2px; font-size: 13px; color: #40474f }
"""

SCRIPT = """
const box = document.getElementById('cards');
if (box) {
  const data = JSON.parse(document.getElementById('values').textContent);
  const by = document.getElementById('by'), order = document.getElementById('order'), all = document.getElementById('all');
  let every = box.children.length <= data.first;
  const show = () => {
    const values = data.values[by.value] || {}, cards = [...box.children];
    const sign = (data.high ? 1 : -1) * (order.value === 'best' ? -1 : 1);
    const value = card => values[card.dataset.name];
    cards.sort((a, b) => {
      if (order.value !== 'name') {
        const x = value(a), y = value(b), none = v => v === null || v === undefined;
        if (none(x) !== none(y)) return (none(x) ? -1 : 1) * (order.value === 'best' ? -1 : 1);
        if (!none(x) && x !== y) return sign * (x - y);
      }
      return a.dataset.name < b.dataset.name ? -1 : 1;
    });
    cards.forEach((card, i) => { card.hidden = !every && i >= data.first; box.append(card); });
    all.hidden = every;
  };
  by.addEventListener('change', show);
  order.addEventListener('change', show);
  all.addEventListener('click', () => { every = true; show(); });
  show();
}
"""
