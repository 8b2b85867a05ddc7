"use strict";
// Rows are chosen by outcome and by what they say; without scripts all of them are there.
for (const bar of document.querySelectorAll(".filters")) {
  const rows = [...document.getElementById(bar.dataset.for).rows];
  const input = bar.querySelector("input");
  const buttons = [...bar.querySelectorAll("button")];
  const shown = bar.querySelector(".shown");
  const choose = () => {
    const value = buttons.find((b) => b.getAttribute("aria-pressed") === "true").dataset.value;
    const words = input.value.toLowerCase().split(/\s+/);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = (value && row.dataset.filter !== value) || !words.every((w) => text.includes(w));
      count += !row.hidden;
    }
    shown.textContent = count + " of " + rows.length;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
      choose();
    });
  }
  input.addEventListener("input", choose);
  bar.hidden = false;
  choose();
}
// A link to a part opens it.
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.matches("details")) target.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", reveal);
if (location.hash) reveal();
