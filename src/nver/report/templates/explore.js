// Which clips are a point, a cell: pointing names them, a tap or Enter lists them to be played.
const clips = JSON.parse(document.getElementById("clips").textContent);
const FIRST_CODE = 0x100, NEAR = 14, LISTED = 30, NAMED = 4;
const tip = document.getElementById("tip"), card = document.getElementById("card");
const player = document.getElementById("player"), note = document.getElementById("card-note");
const percent = (part, whole) => (whole ? Math.round((100 * part) / whole) : 0) + " %";
const named = (clip) => clips.files[clip] ?? "a clip that is not listed";
const speaker = (clip) => (clips.people.length ? "speaker " + clips.people[clips.speakers[clip]] : "");
const about = (clip) => [clips.labels[clips.truth[clip]], speaker(clip)].filter(Boolean).join(", ");
const address = (clip) => clips.sounds[clip] ?? clips.links?.[clip] ??
  (clips.root === undefined ? undefined : clips.root + clips.files[clip].split("/").map(encodeURIComponent).join("/"));

// What lies where: each kind of figure answers at(x, y) and step(spot, dx, dy) with a spot
// {id, title, clips, mark}, or null.
const grid = (svg, describe) => {
  const [left, top, cell, n] = ["left", "top", "cell", "n"].map((name) => Number(svg.dataset[name]));
  const spot = (row, column) => {
    if (!(row >= 0 && column >= 0 && row < n && column < n)) return null;
    const mark = { x: left + column * cell, y: top + row * cell, width: cell, height: cell };
    return { id: row * n + column, row, column, mark, ...describe(row, column) };
  };
  return {
    at: (x, y) => spot(Math.floor((y - top) / cell), Math.floor((x - left) / cell)),
    step: (from, dx, dy) => (from ? spot(from.row + dy, from.column + dx) : spot(0, 0)),
  };
};
const kinds = {
  matrix: (svg) => grid(svg, (row, column) => {
    const answers = clips.systems[svg.closest("[data-number]").dataset.number] ?? [];
    const found = new Map();
    let total = 0, hits = 0;
    for (const seed of answers) {
      for (let clip = 0; clip < seed.length; clip++) {
        if (seed[clip] === "-" || clips.truth[clip] !== row) continue;
        total++;
        if (seed.charCodeAt(clip) - FIRST_CODE !== column) continue;
        hits++;
        found.set(clip, (found.get(clip) ?? 0) + 1);
      }
    }
    const what = row === column ? `${clips.labels[row]}, recognised` : `${clips.labels[row]} taken for ${clips.labels[column]}`;
    const heading = answers.length ? `${what}: ${hits} (${percent(hits, total)})` : what;
    const names = [...found.keys()].slice(0, NAMED).map(named);
    if (found.size > NAMED) names.push(`and ${found.size - NAMED} more`);
    const often = (clip) => (answers.length > 1 ? `, in ${found.get(clip)} of ${answers.length} trainings` : "");
    return { title: [heading, ...names].join("\n"), heading, clips: [...found.keys()], often };
  }),
  plan: (svg) => grid(svg, (row, column) => {
    const plan = clips.plans[svg.closest("[data-number]").dataset.number];
    const [from, to] = [plan.clips[row], plan.clips[column]];
    const share = (plan.shares[row][column] / 10).toFixed(1);
    return {
      title: `${named(from)} (${about(from)})\n\u2192 ${named(to)} (${about(to)})\n${share} % of its mass`,
      heading: from === to ? `${share} % of its mass stays with the clip` : `${share} % of the mass of the first goes to the second`,
      clips: from === to ? [from] : [from, to],
    };
  }),
  map: (svg) => {
    const map = clips.maps[svg.closest("[data-number]").dataset.number];
    const order = map.points.map((_, place) => place).sort((a, b) => map.points[a][0] - map.points[b][0]);
    const spot = (place) => {
      const clip = map.clips[place], [x, y] = map.points[place];
      const group = svg.dataset.by === "speaker" ? clips.speakers[clip] : undefined;
      return { id: place, mark: { cx: x, cy: y, r: 8 }, clips: [clip], group, title: `${named(clip)}\n${about(clip)}` };
    };
    return {
      at: (x, y) => {
        let best = -1, least = NEAR * NEAR;
        map.points.forEach(([px, py], place) => {
          const distance = (px - x) ** 2 + (py - y) ** 2;
          if (distance < least) [best, least] = [place, distance];
        });
        return best < 0 ? null : spot(best);
      },
      step: (from, dx, dy) => spot(order[from ? (order.indexOf(from.id) + dx + dy + order.length) % order.length : 0]),
    };
  },
};

const play = (clip, button) => {
  note.hidden = true;
  player.hidden = false;
  player.src = address(clip);
  player.play().catch(() => {});
  for (const other of all("#card-list button")) other.textContent = "Play";
  button.textContent = "Again";
};
player.addEventListener("error", () => {
  if (!player.getAttribute("src")) return;
  note.textContent = "The clip is not where it was when this page was made, or this browser cannot play it.";
  note.hidden = false;
});
let back = null; // where the keyboard was before the list opened
const close = () => {
  back?.focus();
  back = null;
  player.pause();
  player.removeAttribute("src");
  player.hidden = note.hidden = card.hidden = true;
};
const list = (spot) => {
  close();
  document.getElementById("card-title").textContent = spot.heading ?? spot.title.split("\n")[0];
  const lines = spot.clips.slice(0, LISTED).map((clip) => {
    const line = document.createElement("li"), name = document.createElement("span");
    name.textContent = `${named(clip)} (${about(clip)}${spot.often?.(clip) ?? ""})`;
    if (address(clip) !== undefined) {
      const button = document.createElement("button");
      button.textContent = "Play";
      button.setAttribute("aria-label", "Play " + named(clip));
      button.addEventListener("click", () => play(clip, button));
      line.append(button);
    }
    line.append(name);
    return line;
  });
  if (spot.clips.length > LISTED) {
    lines.push(Object.assign(document.createElement("li"), { textContent: `and ${spot.clips.length - LISTED} more` }));
  }
  document.getElementById("card-list").replaceChildren(...lines);
  card.hidden = false;
};
card.querySelector("[data-close]").addEventListener("click", close);
addEventListener("keydown", (event) => { if (event.key === "Escape" && !card.hidden) close(); });

const show = (svg, spot, x, y) => {
  svg.querySelector(".pointer")?.remove();
  if (svg.dataset.by === "speaker") single(svg, spot ? String(spot.group) : null);
  tip.hidden = !spot;
  if (!spot) return;
  const shape = document.createElementNS(svg.namespaceURI, "r" in spot.mark ? "circle" : "rect");
  for (const [name, value] of Object.entries({ class: "pointer", ...spot.mark })) shape.setAttribute(name, value);
  svg.append(shape);
  tip.textContent = spot.title;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
  tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
for (const box of all("[tabindex]:has([data-explore])")) {
  let spot = null, asked = null, kind = null;
  const look = () => {
    const svg = box.querySelector("[data-explore]");
    if (svg !== asked) [spot, asked, kind] = [null, svg, kinds[svg.dataset.explore](svg)];
    return svg;
  };
  const aim = (event) => {
    const svg = look();
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const found = kind.at(at.x, at.y);
    if (found?.id !== spot?.id || found) show(svg, found, event.clientX, event.clientY);
    spot = found;
  };
  box.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") aim(event); });
  box.addEventListener("pointerleave", () => { show(look(), null); spot = null; });
  box.addEventListener("click", (event) => { aim(event); if (spot?.clips.length) list(spot); });
  box.addEventListener("blur", () => show(look(), null));
  box.addEventListener("keydown", (event) => {
    const svg = look();
    if (event.key === "Enter" && spot?.clips.length) {
      event.preventDefault(); // or the same key presses the button that gets the focus
      list(spot);
      card.querySelector("li button, [data-close]").focus();
      back = box;
    }
    if (!ARROWS[event.key]) return;
    event.preventDefault();
    spot = kind.step(spot, ...ARROWS[event.key]) ?? spot;
    if (!spot) return;
    const mark = new DOMPoint(spot.mark.x ?? spot.mark.cx, spot.mark.y ?? spot.mark.cy).matrixTransform(svg.getScreenCTM());
    show(svg, spot, mark.x, mark.y);
  });
}
