"use strict";
(() => {
  const root = document.querySelector("#what-if[data-start]");
  if (!root) return;
  const BIT = Number(root.dataset.bit);
  const slider = root.querySelector("input[type=range]");
  const points = [...root.querySelectorAll("details.point")];
  const said = root.querySelector(".slider output");
  const bars = [...root.querySelectorAll(".follows")];
  const marks = [...root.querySelectorAll(".mark[data-at]")];

  const show = (at) => {
    slider.value = at;
    points.forEach((point, place) => {
      point.open = place === at;
      point.hidden = place !== at;
    });
    for (const mark of marks) mark.classList.toggle("here", Number(mark.dataset.at) === at);
    for (const bar of bars) {
      const bits = Number(bar.dataset.bits.split(",")[at]);
      const base = Number(bar.dataset.base);
      const up = bar.dataset.up === "1";
      if (bar.dataset.said) {
        bar.textContent = bar.dataset.said.split(",")[at];
        bar.setAttribute("y", up ? base - BIT * bits + 11 : base + BIT * bits - 3);
      } else {
        bar.setAttribute("y", up ? base - BIT * bits : base);
        bar.setAttribute("height", BIT * bits);
      }
    }
    said.textContent = points[at].dataset.says;
    slider.setAttribute("aria-valuetext", points[at].dataset.says);
  };

  root.classList.add("live");
  slider.addEventListener("input", () => show(Number(slider.value)));
  for (const mark of marks) mark.addEventListener("click", () => show(Number(mark.dataset.at)));
  show(Number(root.dataset.start));
})();
