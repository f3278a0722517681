//! The metal: a comfort-fit band that narrows towards the stone, and a tulip head of prongs, rails and a collet.
//!
//! The finger runs along y, the stone looks along +z, the middle of the finger is the origin.

use crate::gem::{CROWN_ANGLE, CROWN_HEIGHT, GIRDLE, PAVILION_DEPTH};
use crate::idea::Idea;
use crate::mesh::Mesh;
use crate::vec3::{smoothstep, v, V3};
use std::f64::consts::TAU;

/// Where the head and the stone stand, in millimetres.
pub struct Layout {
    /// Height of the lower edge of the girdle.
    pub girdle: f64,
    /// Girdle radius of the stone.
    pub stone_radius: f64,
    base: f64,
    base_radius: f64,
    prong: f64,
}

impl Layout {
    pub fn new(idea: &Idea) -> Layout {
        let diameter = idea.stone_diameter();
        let top = idea.inner_radius + idea.band_thickness;
        let prong = (0.064 * diameter).clamp(0.28, 0.60);
        Layout {
            girdle: top + 0.12 + PAVILION_DEPTH * diameter,
            stone_radius: diameter / 2.0,
            base: top - 0.12 * idea.band_thickness,
            base_radius: (0.17 * diameter).max(prong * 1.8),
            prong,
        }
    }

    /// The axis of a prong below the girdle, `t` from 0 at its base to 1 at the girdle: distance from the axis, height.
    fn stem(&self, t: f64) -> (f64, f64) {
        let height = self.girdle - self.base;
        let rim = self.stone_radius + 0.42 * self.prong;
        let reach = rim - self.base_radius;
        let knots = [
            (self.base_radius, self.base),
            (self.base_radius + 0.34 * reach, self.base + 0.20 * height),
            (rim - 0.10 * reach, self.base + 0.62 * height),
            (rim, self.girdle),
        ];
        let weights = [(1.0 - t).powi(3), 3.0 * t * (1.0 - t).powi(2), 3.0 * t * t * (1.0 - t), t.powi(3)];
        knots.iter().zip(weights).fold((0.0, 0.0), |(r, z), (knot, w)| (r + knot.0 * w, z + knot.1 * w))
    }
}

/// All metal shells in one mesh, and each of them for itself.
pub fn metal(idea: &Idea, layout: &Layout) -> Vec<Mesh> {
    let mut shells = vec![band(idea), collet(idea, layout)];
    for (t, thickness) in [(0.30, 0.72), (0.70, 0.66)] {
        shells.push(rail(layout, t, thickness * layout.prong));
    }
    for k in 0..idea.prongs {
        shells.push(prong(layout, TAU * (k as f64 + 0.5) / idea.prongs as f64));
    }
    shells
}

/// Sign-keeping power; the curve of a superellipse.
fn curve(x: f64, exponent: f64) -> f64 {
    x.abs().powf(exponent).copysign(x)
}

fn band(idea: &Idea) -> Mesh {
    const AROUND: usize = 256;
    const PROFILE: usize = 44;
    let (inside, outside) = (0.20 * idea.band_thickness, 0.80 * idea.band_thickness);
    Mesh::torus(AROUND, PROFILE, |c, r| {
        let (sin, cos) = (TAU * c as f64 / AROUND as f64).sin_cos();
        let (lift, across) = (TAU * (r as f64 + 0.5) / PROFILE as f64).sin_cos();
        let narrow = 1.0 - 0.24 * smoothstep(0.35, 1.0, cos);
        let radius = if lift >= 0.0 { outside * curve(lift, 0.92) } else { inside * curve(lift, 0.8) };
        let radius = idea.inner_radius + inside + radius;
        v(radius * sin, 0.5 * idea.band_width * narrow * curve(across, 0.82), radius * cos)
    })
}

/// The small cup that joins the head to the band; it never reaches the finger.
fn collet(idea: &Idea, layout: &Layout) -> Mesh {
    let bottom = idea.inner_radius + 0.55 * idea.band_thickness;
    let top = layout.base + 0.55 * layout.prong;
    let wide = layout.base_radius + 0.75 * layout.prong;
    let mut path = Vec::new();
    let mut radii = Vec::new();
    for k in 0..=10 {
        let t = f64::from(k) / 10.0;
        path.push(v(0.0, 0.0, bottom + (top - bottom) * t));
        radii.push(wide * (0.62 + 0.38 * smoothstep(0.0, 1.0, t)));
    }
    flat_ended(&path, &radii)
}

/// A turned part: like a tube, with its ends rounded over by a small edge instead of half balls.
fn flat_ended(path: &[V3], radii: &[f64]) -> Mesh {
    const AROUND: usize = 72;
    const EDGE: f64 = 0.12;
    let (first, last) = (path[0], path[path.len() - 1]);
    let mut rings: Vec<(f64, f64)> = vec![(first.z, (radii[0] - EDGE) * 0.5), (first.z, radii[0] - EDGE)];
    rings.extend(path.iter().zip(radii).map(|(p, &r)| (p.z + EDGE * smoothstep(last.z, first.z, p.z), r)));
    let top = last.z + EDGE;
    rings.extend([(top, radii[radii.len() - 1] - EDGE), (top, (radii[radii.len() - 1] - EDGE) * 0.5)]);
    let mut mesh = Mesh::default();
    for &(z, r) in &rings {
        for s in 0..AROUND {
            let (sin, cos) = (TAU * s as f64 / AROUND as f64).sin_cos();
            mesh.points.push(v(r * cos, r * sin, z));
        }
    }
    mesh.points.extend([v(0.0, 0.0, first.z), v(0.0, 0.0, top)]);
    let at = |r: usize, s: usize| (r * AROUND + s % AROUND) as u32;
    let (bottom_pole, top_pole) = (at(rings.len(), 0), at(rings.len(), 1));
    for s in 0..AROUND {
        mesh.triangles.push([bottom_pole, at(0, s + 1), at(0, s)]);
        mesh.triangles.push([top_pole, at(rings.len() - 1, s), at(rings.len() - 1, s + 1)]);
        for r in 1..rings.len() {
            mesh.triangles.push([at(r - 1, s), at(r - 1, s + 1), at(r, s + 1)]);
            mesh.triangles.push([at(r - 1, s), at(r, s + 1), at(r, s)]);
        }
    }
    mesh.outward()
}

fn rail(layout: &Layout, t: f64, thickness: f64) -> Mesh {
    const AROUND: usize = 120;
    const ROUND: usize = 16;
    let (radius, height) = layout.stem(t);
    Mesh::torus(AROUND, ROUND, |c, r| {
        let (sin, cos) = (TAU * c as f64 / AROUND as f64).sin_cos();
        let (lift, out) = (TAU * r as f64 / ROUND as f64).sin_cos();
        let distance = radius + thickness * out;
        v(distance * cos, distance * sin, height + thickness * lift)
    })
}

fn prong(layout: &Layout, azimuth: f64) -> Mesh {
    const STEM: usize = 22;
    const CLAW: usize = 14;
    let width = layout.prong;
    let mut line: Vec<(f64, f64, f64)> = Vec::new();
    for k in 0..=STEM {
        let t = k as f64 / STEM as f64;
        let (r, z) = layout.stem(t);
        line.push((r, z, width * (1.18 - 0.30 * smoothstep(0.0, 0.6, t) + 0.10 * smoothstep(0.7, 1.0, t))));
    }
    // From the girdle the claw bends over the crown and lies on it.
    let diameter = 2.0 * layout.stone_radius;
    let (sin, cos) = CROWN_ANGLE.to_radians().sin_cos();
    let crown = layout.girdle + GIRDLE * diameter;
    let length = 0.62 * CROWN_HEIGHT * diameter / sin;
    let over = 0.38 * width;
    let tip = (layout.stone_radius - length * cos + over * sin, crown + length * sin + over * cos);
    let start = layout.stem(1.0);
    let bend = (start.0, crown + 0.75 * width);
    for k in 1..=CLAW {
        let t = k as f64 / CLAW as f64;
        let mix = |a: f64, b: f64, c: f64| a * (1.0 - t).powi(2) + 2.0 * b * t * (1.0 - t) + c * t * t;
        let radius = width * (0.98 - 0.36 * smoothstep(0.15, 1.0, t));
        line.push((mix(start.0, bend.0, tip.0), mix(start.1, bend.1, tip.1), radius));
    }
    let (sin, cos) = azimuth.sin_cos();
    let path: Vec<V3> = line.iter().map(|&(r, z, _)| v(r * cos, r * sin, z)).collect();
    let radii: Vec<f64> = line.iter().map(|&(_, _, width)| width).collect();
    Mesh::tube(&path, &radii, 18)
}
