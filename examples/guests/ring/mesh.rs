//! Closed triangle meshes: building blocks, the proof that they are watertight, and their volume.

use crate::vec3::{v, V3};
use std::f64::consts::TAU;

/// Triangles over shared points, counter-clockwise seen from outside.
#[derive(Default)]
pub struct Mesh {
    pub points: Vec<V3>,
    pub triangles: Vec<[u32; 3]>,
}

impl Mesh {
    pub fn append(&mut self, other: &Mesh) {
        let base = self.points.len() as u32;
        self.points.extend_from_slice(&other.points);
        self.triangles.extend(other.triangles.iter().map(|t| t.map(|i| i + base)));
    }

    pub fn corners(&self, triangle: [u32; 3]) -> [V3; 3] {
        triangle.map(|i| self.points[i as usize])
    }

    /// A ring of rings: `columns` closed loops of `rows` points each, joined around; a torus in topology.
    pub fn torus(columns: usize, rows: usize, point: impl Fn(usize, usize) -> V3) -> Mesh {
        let mut mesh = Mesh::default();
        for c in 0..columns {
            mesh.points.extend((0..rows).map(|r| point(c, r)));
        }
        for c in 0..columns {
            for r in 0..rows {
                let at = |c: usize, r: usize| ((c % columns) * rows + r % rows) as u32;
                mesh.quad(at(c, r), at(c + 1, r), at(c + 1, r + 1), at(c, r + 1));
            }
        }
        mesh.outward()
    }

    /// A round tube along `path` (at least two points) with a radius at each; both ends are closed by half balls.
    pub fn tube(path: &[V3], radii: &[f64], segments: usize) -> Mesh {
        const CAP: usize = 5;
        let last = path.len() - 1;
        let tangent = |i: usize| (path[(i + 1).min(last)] - path[i.max(1) - 1]).unit();
        let mut side = tangent(0).cross(v(0.31, 0.83, -0.46)).unit();
        let mut mesh = Mesh::default();
        let mut ring = |mesh: &mut Mesh, center: V3, along: V3, radius: f64| {
            side = (side - along * side.dot(along)).unit();
            let up = along.cross(side);
            for s in 0..segments {
                let angle = TAU * s as f64 / segments as f64;
                mesh.points.push(center + side * (radius * angle.cos()) + up * (radius * angle.sin()));
            }
        };
        let quarter = |k: usize| (k as f64 / CAP as f64 * TAU / 4.0).sin_cos();
        for k in 1..CAP {
            let (rise, back) = quarter(k);
            ring(&mut mesh, path[0] - tangent(0) * (radii[0] * back), tangent(0), radii[0] * rise);
        }
        for i in 0..=last {
            ring(&mut mesh, path[i], tangent(i), radii[i]);
        }
        for k in (1..CAP).rev() {
            let (rise, ahead) = quarter(k);
            ring(&mut mesh, path[last] + tangent(last) * (radii[last] * ahead), tangent(last), radii[last] * rise);
        }
        let rings = mesh.points.len() / segments;
        mesh.points.push(path[0] - tangent(0) * radii[0]);
        mesh.points.push(path[last] + tangent(last) * radii[last]);
        let (first_pole, last_pole) = ((rings * segments) as u32, (rings * segments + 1) as u32);
        let at = |r: usize, s: usize| (r * segments + s % segments) as u32;
        for s in 0..segments {
            mesh.triangles.push([first_pole, at(0, s + 1), at(0, s)]);
            mesh.triangles.push([last_pole, at(rings - 1, s), at(rings - 1, s + 1)]);
            for r in 1..rings {
                mesh.quad(at(r - 1, s), at(r - 1, s + 1), at(r, s + 1), at(r, s));
            }
        }
        mesh.outward()
    }

    fn quad(&mut self, a: u32, b: u32, c: u32, d: u32) {
        self.triangles.push([a, b, c]);
        self.triangles.push([a, c, d]);
    }

    /// Turns the whole shell inside out when its volume is negative.
    pub fn outward(mut self) -> Mesh {
        if self.volume() < 0.0 {
            for triangle in &mut self.triangles {
                triangle.swap(1, 2);
            }
        }
        self
    }

    /// Enclosed volume in cubic millimetres (overlapping shells count twice).
    pub fn volume(&self) -> f64 {
        self.triangles.iter().map(|&t| self.corners(t)).map(|[a, b, c]| a.dot(b.cross(c)) / 6.0).sum()
    }

    pub fn bounds(&self) -> (V3, V3) {
        let far = v(f64::MAX, f64::MAX, f64::MAX);
        self.points.iter().fold((far, -far), |(low, high), &p| (low.min(p), high.max(p)))
    }

    /// One smooth normal for each point, weighted by the area of the triangles around it.
    pub fn normals(&self) -> Vec<V3> {
        let mut normals = vec![v(0.0, 0.0, 0.0); self.points.len()];
        for &t in &self.triangles {
            let [a, b, c] = self.corners(t);
            let normal = (b - a).cross(c - a);
            for i in t {
                normals[i as usize] = normals[i as usize] + normal;
            }
        }
        normals.into_iter().map(V3::unit).collect()
    }

    /// Every edge belongs to exactly two triangles that pass it in opposite directions, no triangle is degenerate:
    /// judged by the single-precision coordinates that the file will hold.
    pub fn check_watertight(&self) -> Result<(), String> {
        let mut places: Vec<([u32; 3], u32)> = Vec::with_capacity(self.points.len());
        for (i, p) in self.points.iter().enumerate() {
            places.push((p.to_f32().map(f32::to_bits), i as u32));
        }
        places.sort_unstable();
        if let Some(w) = places.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(format!("points {} and {} coincide", w[0].1, w[1].1));
        }
        let edge = |from: u32, to: u32| u64::from(from) << 32 | u64::from(to);
        let mut edges = Vec::with_capacity(self.triangles.len() * 3);
        for &[a, b, c] in &self.triangles {
            let [p, q, r] = self.corners([a, b, c]);
            if (q - p).cross(r - p).length() < 1e-9 {
                return Err(format!("triangle {a} {b} {c} has no area"));
            }
            edges.extend_from_slice(&[edge(a, b), edge(b, c), edge(c, a)]);
        }
        edges.sort_unstable();
        if edges.windows(2).any(|w| w[0] == w[1]) {
            return Err("an edge is passed twice in one direction".into());
        }
        match edges.iter().find(|e| edges.binary_search(&e.rotate_left(32)).is_err()) {
            Some(e) => Err(format!("edge {} {} is open", e >> 32, *e as u32)),
            None => Ok(()),
        }
    }
}

/// Volume of the union of overlapping closed shells, by integrating along lines parallel to the z axis, `step` apart.
pub fn union_volume(mesh: &Mesh, step: f64) -> f64 {
    let (low, high) = mesh.bounds();
    let columns = ((high.x - low.x) / step).ceil() as usize;
    let rows = ((high.y - low.y) / step).ceil() as usize;
    let mut crossings: Vec<Vec<(f64, i32)>> = vec![Vec::new(); columns * rows];
    // Lines run a little off the grid so that none meets a vertex of a symmetric model.
    let (x0, y0) = (low.x + step * 0.487_13, low.y + step * 0.512_71);
    let first = |low: f64, origin: f64| ((low - origin) / step).ceil().max(0.0) as usize;
    for &t in &mesh.triangles {
        let [a, b, c] = mesh.corners(t);
        let area = (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
        if area == 0.0 {
            continue;
        }
        let (small, big) = (a.min(b).min(c), a.max(b).max(c));
        for column in first(small.x, x0)..columns {
            let x = x0 + column as f64 * step;
            if x > big.x {
                break;
            }
            for row in first(small.y, y0)..rows {
                let y = y0 + row as f64 * step;
                if y > big.y {
                    break;
                }
                let s = ((x - a.x) * (c.y - a.y) - (y - a.y) * (c.x - a.x)) / area;
                let u = ((b.x - a.x) * (y - a.y) - (b.y - a.y) * (x - a.x)) / area;
                if s >= 0.0 && u >= 0.0 && s + u < 1.0 {
                    let z = a.z + (b.z - a.z) * s + (c.z - a.z) * u;
                    crossings[column * rows + row].push((z, if area < 0.0 { 1 } else { -1 }));
                }
            }
        }
    }
    let mut length = 0.0;
    for line in &mut crossings {
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut depth, mut entered) = (0, 0.0);
        for &(z, turn) in line.iter() {
            if depth == 0 {
                entered = z;
            }
            depth += turn;
            if depth == 0 {
                length += z - entered;
            }
        }
    }
    length * step * step
}
