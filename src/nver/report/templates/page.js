"use strict";
document.documentElement.classList.add("active");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
// Say where something is hidden to the right.
const hints = () => {
  for (const hint of all(".hint")) {
    const box = hint.nextElementSibling;
    hint.hidden = box.scrollWidth <= box.clientWidth;
  }
};
addEventListener("resize", hints);
// Choose a confusion matrix: its drawing stands in a template, the pane shows a copy.
for (const select of all("select[data-pane]")) {
  const pane = document.getElementById(select.dataset.pane);
  const show = () => {
    pane.replaceChildren(document.getElementById("matrix-" + select.value).content.cloneNode(true));
    pane.dataset.number = select.value;
    pane.closest("figure").querySelector("[data-name]").textContent = select.selectedOptions[0].textContent;
  };
  select.hidden = false;
  select.addEventListener("change", show);
  if (document.getElementById("matrix-" + select.value)) show(); // a reload may restore another choice
}
// Choose one of several panels.
for (const select of all("select[data-panels]")) {
  const panels = all(`[data-panel="${select.dataset.panels}"]`);
  const show = () => {
    panels.forEach((panel, number) => { panel.hidden = String(number) !== select.value; });
    hints();
  };
  select.addEventListener("change", show);
  show();
}
// Switch what a group of figures shows.
for (const button of all("[data-target]")) {
  button.addEventListener("click", () => {
    document.getElementById(button.dataset.target).dataset.show = button.dataset.value;
    for (const other of button.parentElement.children) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  });
}
// Copy the citations.
for (const button of all("[data-copy]")) {
  const text = document.getElementById(button.dataset.copy);
  const said = button.nextElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(text);
      said.textContent = "Selected: copy it with Ctrl+C.";
    }
  });
}
// Single out one group on a map: hover its key, or tap it to keep it.
const single = (map, key) => {
  for (const mark of all("[data-class]", map)) {
    mark.style.opacity = key === null ? "" : mark.dataset.class === key ? "1" : "0.06";
  }
};
for (const map of all(".keys svg")) {
  let kept = null;
  for (const entry of all("[data-key]", map)) {
    const key = entry.dataset.key;
    entry.addEventListener("mouseenter", () => single(map, key));
    entry.addEventListener("mouseleave", () => single(map, kept));
    entry.addEventListener("click", () => { kept = kept === key ? null : key; single(map, kept); });
  }
}
hints();
