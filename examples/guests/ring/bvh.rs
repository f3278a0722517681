//! Finds the first triangle on a ray, with a tree of boxes (binned surface-area heuristic).

use crate::mesh::Mesh;
use crate::vec3::{v, V3};

const BINS: usize = 12;
const LEAF: usize = 3;
const EMPTY: Bounds = Bounds { low: [f32::MAX; 3], high: [f32::MIN; 3] };

#[derive(Clone, Copy)]
struct Bounds {
    low: [f32; 3],
    high: [f32; 3],
}

impl Bounds {
    fn join(self, other: Bounds) -> Bounds {
        let mut joint = self;
        for axis in 0..3 {
            joint.low[axis] = joint.low[axis].min(other.low[axis]);
            joint.high[axis] = joint.high[axis].max(other.high[axis]);
        }
        joint
    }

    fn half_area(&self) -> f32 {
        let [x, y, z] = [0, 1, 2].map(|axis| (self.high[axis] - self.low[axis]).max(0.0));
        x * y + y * z + z * x
    }
}

/// A leaf has `count` triangles from `first`; an inner node has its children at `first` and `first + 1`.
struct Node {
    bounds: Bounds,
    first: u32,
    count: u32,
}

struct Triangle {
    corner: [f32; 3],
    edges: [[f32; 3]; 2],
    index: u32,
}

/// Where a ray meets a triangle: its distance, the triangle's index in the mesh and the weights of corners 1 and 2.
pub struct Hit {
    pub distance: f64,
    pub triangle: usize,
    pub weights: (f64, f64),
}

pub struct Bvh {
    nodes: Vec<Node>,
    triangles: Vec<Triangle>,
}

struct Item {
    bounds: Bounds,
    center: [f32; 3],
    index: u32,
}

impl Bvh {
    pub fn new(mesh: &Mesh) -> Bvh {
        let mut items: Vec<Item> = (0..mesh.triangles.len())
            .map(|index| {
                let corners = mesh.corners(mesh.triangles[index]).map(V3::to_f32);
                let bounds = corners.iter().fold(EMPTY, |b, &c| b.join(Bounds { low: c, high: c }));
                let center = [0, 1, 2].map(|axis| 0.5 * (bounds.low[axis] + bounds.high[axis]));
                Item { bounds, center, index: index as u32 }
            })
            .collect();
        let mut bvh = Bvh { nodes: vec![Node { bounds: EMPTY, first: 0, count: 0 }], triangles: Vec::new() };
        bvh.split(0, &mut items);
        let nodes = std::mem::take(&mut bvh.triangles);
        bvh.triangles = nodes
            .into_iter()
            .map(|t| {
                let [a, b, c] = mesh.corners(mesh.triangles[t.index as usize]);
                Triangle { corner: a.to_f32(), edges: [(b - a).to_f32(), (c - a).to_f32()], index: t.index }
            })
            .collect();
        bvh
    }

    fn split(&mut self, node: usize, items: &mut [Item]) {
        self.nodes[node].bounds = items.iter().fold(EMPTY, |b, item| b.join(item.bounds));
        let middle = if items.len() > LEAF { partition(items) } else { 0 };
        if middle == 0 {
            self.nodes[node].first = self.triangles.len() as u32;
            self.nodes[node].count = items.len() as u32;
            let blank = [0.0; 3];
            let leaf = items.iter().map(|i| Triangle { corner: blank, edges: [blank; 2], index: i.index });
            self.triangles.extend(leaf);
            return;
        }
        let children = self.nodes.len();
        self.nodes[node].first = children as u32;
        self.nodes.push(Node { bounds: EMPTY, first: 0, count: 0 });
        self.nodes.push(Node { bounds: EMPTY, first: 0, count: 0 });
        let (left, right) = items.split_at_mut(middle);
        self.split(children, left);
        self.split(children + 1, right);
    }

    /// The nearest hit closer than `limit`.
    #[inline(never)]
    pub fn nearest(&self, origin: V3, direction: V3, limit: f64) -> Option<Hit> {
        let mut best: Option<Hit> = None;
        let mut limit = limit as f32;
        self.walk(origin, direction, &mut limit, |triangle, distance, weights| {
            best = Some(Hit { distance: f64::from(distance), triangle: triangle as usize, weights });
            false
        });
        best
    }

    /// Whether anything is hit closer than `limit`.
    #[inline(never)]
    pub fn blocked(&self, origin: V3, direction: V3, limit: f64) -> bool {
        let mut any = false;
        self.walk(origin, direction, &mut (limit as f32), |_, _, _| {
            any = true;
            true
        });
        any
    }

    fn walk(&self, origin: V3, direction: V3, limit: &mut f32, mut hit: impl FnMut(u32, f32, (f64, f64)) -> bool) {
        let (o, d) = (origin.to_f32(), direction.to_f32());
        let inverse = d.map(|c| 1.0 / c);
        let mut stack = [0u32; 64];
        let mut depth = 0;
        if enter(&self.nodes[0].bounds, o, inverse, *limit) == f32::MAX {
            return;
        }
        let mut at = 0u32;
        loop {
            let node = &self.nodes[at as usize];
            if node.count > 0 {
                for triangle in &self.triangles[node.first as usize..(node.first + node.count) as usize] {
                    if let Some((distance, weights)) = meet(triangle, o, d) {
                        if distance < *limit {
                            *limit = distance;
                            if hit(triangle.index, distance, weights) {
                                return;
                            }
                        }
                    }
                }
            } else {
                let (mut near, mut far) = (node.first, node.first + 1);
                let mut near_at = enter(&self.nodes[near as usize].bounds, o, inverse, *limit);
                let mut far_at = enter(&self.nodes[far as usize].bounds, o, inverse, *limit);
                if far_at < near_at {
                    std::mem::swap(&mut near, &mut far);
                    std::mem::swap(&mut near_at, &mut far_at);
                }
                if near_at < f32::MAX {
                    if far_at < f32::MAX && depth < stack.len() {
                        stack[depth] = far;
                        depth += 1;
                    }
                    at = near;
                    continue;
                }
            }
            if depth == 0 {
                return;
            }
            depth -= 1;
            at = stack[depth];
        }
    }
}

/// Distance at which a ray enters a box, or `f32::MAX`.
#[inline(always)]
fn enter(bounds: &Bounds, o: [f32; 3], inverse: [f32; 3], limit: f32) -> f32 {
    let (mut first, mut last) = (0.0f32, limit);
    for axis in 0..3 {
        let a = (bounds.low[axis] - o[axis]) * inverse[axis];
        let b = (bounds.high[axis] - o[axis]) * inverse[axis];
        let (a, b) = if a < b { (a, b) } else { (b, a) };
        first = if a > first { a } else { first };
        last = if b < last { b } else { last };
    }
    if first <= last {
        first
    } else {
        f32::MAX
    }
}

/// Moeller and Trumbore's test.
#[inline(always)]
fn meet(triangle: &Triangle, o: [f32; 3], d: [f32; 3]) -> Option<(f32, (f64, f64))> {
    let cross = |a: [f32; 3], b: [f32; 3]| {
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    };
    let dot = |a: [f32; 3], b: [f32; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    let [e1, e2] = triangle.edges;
    let p = cross(d, e2);
    let determinant = dot(e1, p);
    if determinant.abs() < 1e-12 {
        return None;
    }
    let inverse = 1.0 / determinant;
    let s = [o[0] - triangle.corner[0], o[1] - triangle.corner[1], o[2] - triangle.corner[2]];
    let a = dot(s, p) * inverse;
    if !(0.0..=1.0).contains(&a) {
        return None;
    }
    let q = cross(s, e1);
    let b = dot(d, q) * inverse;
    if b < 0.0 || a + b > 1.0 {
        return None;
    }
    let distance = dot(e2, q) * inverse;
    (distance > 1e-4).then(|| (distance, (f64::from(a), f64::from(b))))
}

/// Orders the items so that the cheapest split lies at the returned place; 0 when none is better than a leaf.
fn partition(items: &mut [Item]) -> usize {
    let spread = items.iter().fold(EMPTY, |b, i| b.join(Bounds { low: i.center, high: i.center }));
    let axis = (0..3).max_by(|&a, &b| {
        let size = |axis: usize| spread.high[axis] - spread.low[axis];
        size(a).total_cmp(&size(b))
    });
    let axis = axis.unwrap_or(0);
    let (low, size) = (spread.low[axis], spread.high[axis] - spread.low[axis]);
    if size <= 0.0 {
        return 0;
    }
    let bin = |item: &Item| (((item.center[axis] - low) / size * BINS as f32) as usize).min(BINS - 1);
    let mut bins = [(EMPTY, 0usize); BINS];
    for item in items.iter() {
        let slot = &mut bins[bin(item)];
        *slot = (slot.0.join(item.bounds), slot.1 + 1);
    }
    let cost = |part: &[(Bounds, usize)]| {
        let (bounds, count) = part.iter().fold((EMPTY, 0), |(b, n), s| (b.join(s.0), n + s.1));
        if count == 0 {
            return f32::MAX;
        }
        bounds.half_area() * count as f32
    };
    let cut = (1..BINS).min_by(|&a, &b| {
        let total = |cut: usize| cost(&bins[..cut]) + cost(&bins[cut..]);
        total(a).total_cmp(&total(b))
    });
    let cut = cut.unwrap_or(BINS / 2);
    let mut middle = 0;
    for k in 0..items.len() {
        if bin(&items[k]) < cut {
            items.swap(middle, k);
            middle += 1;
        }
    }
    middle % items.len()
}

/// The point's smooth normal between the three of its triangle.
pub fn blend(normals: [V3; 3], weights: (f64, f64)) -> V3 {
    let (a, b) = weights;
    let sum = normals[0] * (1.0 - a - b) + normals[1] * a + normals[2] * b;
    if sum == v(0.0, 0.0, 0.0) {
        normals[0]
    } else {
        sum.unit()
    }
}
