// Where the computations of a transaction are drawn: by level, with few crossings, children near their parents. Pure.

const SWEEPS = 6;
const MOST_BENDS = 3000;

/** Place nodes of {id, level, inputs: [id]}.
 *
 *  Returns {nodes: Map id -> {along, across}, edges: [{from, to, bends: [{along, across}]}], levels, extent}, in which
 *  `along` is the level and `across` a distance in units of one node's room. */
export function arrange(nodes) {
  const known = new Map(nodes.map((node) => [node.id, node]));
  const items = new Map(nodes.map((node) => [node.id, { id: node.id, level: node.level, up: [], down: [], at: 0 }]));
  const edges = [];
  let bends = 0;
  for (const node of nodes) {
    for (const source of new Set(node.inputs)) {
      const from = known.get(source);
      if (from === undefined || from.level >= node.level) continue;
      const edge = { from: source, to: node.id, through: [] };
      edges.push(edge);
      let above = items.get(source);
      // Edges over several levels get a place in each, so that they run between nodes and not beneath them.
      for (let level = from.level + 1; level < node.level && bends < MOST_BENDS; level += 1) {
        const bend = { id: `${source}>${node.id}@${level}`, level, up: [], down: [], at: 0, isBend: true };
        bends += 1;
        items.set(bend.id, bend);
        edge.through.push(bend);
        join(above, bend);
        above = bend;
      }
      join(above, items.get(node.id));
    }
  }
  const depth = Math.max(0, ...nodes.map((node) => node.level));
  const levels = Array.from({ length: depth + 1 }, () => []);
  for (const item of items.values()) levels[item.level].push(item);
  levels.forEach(spread);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (let level = 1; level <= depth; level += 1) order(levels[level], "up");
    for (let level = depth - 1; level >= 0; level -= 1) order(levels[level], "down");
  }
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (let level = 1; level <= depth; level += 1) settle(levels[level], "up");
    for (let level = depth - 1; level >= 0; level -= 1) settle(levels[level], "down");
  }
  for (let level = 1; level <= depth; level += 1) settle(levels[level], "up");
  const least = Math.min(...[...items.values()].map((item) => item.at));
  const place = (item) => ({ along: item.level, across: item.at - least });
  const placed = new Map(nodes.map((node) => [node.id, place(items.get(node.id))]));
  return {
    nodes: placed,
    edges: edges.map(({ from, to, through }) => ({ from, to, bends: through.map(place) })),
    levels: levels.length,
    extent: Math.max(0, ...[...items.values()].map((item) => item.at - least)) + 1,
  };
}

function join(above, below) {
  above.down.push(below);
  below.up.push(above);
}

function spread(level) {
  level.forEach((item, place) => (item.at = place));
}

const mean = (items) => items.reduce((sum, item) => sum + item.at, 0) / items.length;

/** Sort a level by where its neighbours are; those without stay about where they were. */
function order(level, side) {
  const wish = new Map(level.map((item) => [item, item[side].length ? mean(item[side]) : item.at]));
  level.sort((one, other) => wish.get(one) - wish.get(other));
  spread(level);
}

const room = (item) => (item.isBend ? 0.45 : 1);

/** Move a level's items as near to their neighbours as their order and size allow, in the sense of least squares. */
function settle(level, side) {
  const offsets = [0];
  for (let place = 1; place < level.length; place += 1)
    offsets.push(offsets[place - 1] + (room(level[place - 1]) + room(level[place])) / 2);
  const pools = [];
  level.forEach((item, place) => {
    const wish = (item[side].length ? mean(item[side]) : item.at) - offsets[place];
    pools.push({ sum: wish, size: 1 });
    while (pools.length > 1 && pools.at(-2).sum / pools.at(-2).size >= pools.at(-1).sum / pools.at(-1).size) {
      const last = pools.pop();
      pools.at(-1).sum += last.sum;
      pools.at(-1).size += last.size;
    }
  });
  let place = 0;
  for (const pool of pools) {
    for (let number = 0; number < pool.size; number += 1, place += 1) level[place].at = pool.sum / pool.size + offsets[place];
  }
}
