"use strict";
document.documentElement.classList.add("active");
// Say where something is hidden to the right.
const hints = () => {
  for (const hint of document.querySelectorAll(".hint")) {
    const box = hint.nextElementSibling;
    hint.hidden = box.scrollWidth <= box.clientWidth;
  }
};
addEventListener("resize", hints);
hints();
// Choose a confusion matrix: its drawing stands in a template, the pane shows a copy.
for (const select of document.querySelectorAll("select[data-pane]")) {
  const pane = document.getElementById(select.dataset.pane);
  const show = () => {
    pane.replaceChildren(document.getElementById("matrix-" + select.value).content.cloneNode(true));
    pane.closest("figure").querySelector("[data-name]").textContent = select.selectedOptions[0].textContent;
  };
  select.hidden = false;
  select.addEventListener("change", show);
  if (document.getElementById("matrix-" + select.value)) show(); // a reload may restore another choice
}
// Single out one label on a map: hover its key, or tap it to keep it.
for (const map of document.querySelectorAll(".keys svg")) {
  let kept = null;
  const single = (key) => {
    for (const mark of map.querySelectorAll("[data-class]")) {
      mark.style.opacity = key === null ? "" : mark.dataset.class === key ? "1" : "0.06";
    }
  };
  for (const entry of map.querySelectorAll("[data-key]")) {
    const key = entry.dataset.key;
    entry.addEventListener("mouseenter", () => single(key));
    entry.addEventListener("mouseleave", () => single(kept));
    entry.addEventListener("click", () => { kept = kept === key ? null : key; single(kept); });
  }
}
