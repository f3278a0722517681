//! A round brilliant of 58 facets (table, 8 stars, 8 kites, 16 upper girdle, 8 pavilion mains, 16 lower girdle,
//! culet) and a faceted girdle, as the intersection of half-spaces; measures are fractions of the diameter.

use crate::mesh::Mesh;
use crate::vec3::{v, V3};
use std::f64::consts::PI;

pub const TABLE: f64 = 0.57;
pub const CROWN_ANGLE: f64 = 34.5;
pub const PAVILION_ANGLE: f64 = 40.75;
pub const GIRDLE: f64 = 0.030;
/// `(1 - TABLE) / 2 * tan(CROWN_ANGLE)`
pub const CROWN_HEIGHT: f64 = 0.147_76;
/// `tan(PAVILION_ANGLE) / 2`, less what the culet cuts off.
pub const PAVILION_DEPTH: f64 = 0.424_5;
const STAR_LENGTH: f64 = 0.50;
const LOWER_HALF_LENGTH: f64 = 0.77;
/// Facets of the cut, without the sides of the girdle.
pub const FACETS: usize = 58;
/// Sides of the girdle.
pub const SIDES: usize = 64;

/// All points `p` with `normal . p <= offset`.
#[derive(Clone, Copy)]
pub struct Plane {
    pub normal: V3,
    pub offset: f64,
}

impl Plane {
    /// Through three points, with the origin inside.
    fn through(a: V3, b: V3, c: V3) -> Plane {
        let normal = (b - a).cross(c - a).unit();
        let normal = if normal.dot(a) < 0.0 { -normal } else { normal };
        Plane { normal, offset: normal.dot(a) }
    }

    /// Moves and scales the body that the plane bounds.
    fn placed(self, scale: f64, shift: V3) -> Plane {
        Plane { normal: self.normal, offset: self.offset * scale + self.normal.dot(shift) }
    }
}

/// The stone in its place.
pub struct Gem {
    /// The 58 facets.
    pub facets: Vec<Plane>,
    girdle: Vec<Plane>,
}

impl Gem {
    /// A stone of the given girdle radius whose lower girdle edge lies at height `girdle`.
    pub fn new(radius: f64, girdle: f64) -> Gem {
        let shift = v(0.0, 0.0, girdle);
        let place = |plane: Plane| plane.placed(radius, shift);
        Gem {
            facets: facets().into_iter().map(place).collect(),
            girdle: (0..SIDES)
                .map(|k| {
                    let (sin, cos) = ((k as f64 + 0.5) * 2.0 * PI / SIDES as f64).sin_cos();
                    place(Plane { normal: v(cos, sin, 0.0), offset: (PI / SIDES as f64).cos() })
                })
                .collect(),
        }
    }

    /// The stone as a closed mesh: each facet is clipped by all others, then equal corners are joined.
    pub fn mesh(&self) -> Mesh {
        const JOIN: f64 = 1e-4;
        let planes: Vec<Plane> = self.facets.iter().chain(&self.girdle).copied().collect();
        let mut mesh = Mesh::default();
        for (i, plane) in planes.iter().enumerate() {
            let mut polygon = big_square(plane);
            for (_, other) in planes.iter().enumerate().filter(|&(k, _)| k != i) {
                polygon = clip(&polygon, other);
            }
            let mut corners: Vec<u32> = Vec::new();
            for point in polygon {
                let known = mesh.points.iter().position(|&p| (p - point).length() < JOIN);
                let index = known.unwrap_or_else(|| {
                    mesh.points.push(point);
                    mesh.points.len() - 1
                }) as u32;
                if corners.last() != Some(&index) && corners.first() != Some(&index) {
                    corners.push(index);
                }
            }
            for k in 2..corners.len() {
                mesh.triangles.push([corners[0], corners[k - 1], corners[k]]);
            }
        }
        mesh.outward()
    }
}

/// For a girdle of radius 1 whose lower edge lies at height 0.
fn facets() -> Vec<Plane> {
    let at = |azimuth: f64, radius: f64, height: f64| {
        let (sin, cos) = (azimuth * PI / 8.0).sin_cos();
        v(radius * cos, radius * sin, height)
    };
    let half = (PI / 8.0).cos();
    let (crown, pavilion) = (CROWN_ANGLE.to_radians().tan(), PAVILION_ANGLE.to_radians().tan());
    let rim = 2.0 * GIRDLE;
    let table_height = rim + (1.0 - TABLE) * crown;
    let edge = TABLE * half;
    let star = edge + STAR_LENGTH * (1.0 - edge);
    let star_height = rim + (1.0 - star * half) * crown;
    let lower = 1.0 - LOWER_HALF_LENGTH;
    let lower_height = -(1.0 - lower * half) * pavilion;
    let mut planes = vec![
        Plane { normal: v(0.0, 0.0, 1.0), offset: table_height },
        Plane { normal: v(0.0, 0.0, -1.0), offset: 2.0 * PAVILION_DEPTH },
    ];
    for k in 0..8 {
        let main = f64::from(2 * k);
        let kite_edge = at(main, 1.0, rim);
        let across = at(main + 4.0, 1.0, 0.0);
        planes.push(Plane::through(kite_edge, kite_edge + across, at(main, TABLE, table_height)));
        let low_edge = at(main, 1.0, 0.0);
        planes.push(Plane::through(low_edge, low_edge + across, at(main, 0.0, -pavilion)));
        let tip = at(main + 1.0, star, star_height);
        planes.push(Plane::through(at(main, TABLE, table_height), at(main + 2.0, TABLE, table_height), tip));
        let deep = at(main + 1.0, lower, lower_height);
        for side in [main, main + 2.0] {
            planes.push(Plane::through(at(side, 1.0, rim), at(main + 1.0, 1.0, rim), tip));
            planes.push(Plane::through(at(side, 1.0, 0.0), at(main + 1.0, 1.0, 0.0), deep));
        }
    }
    planes
}

fn big_square(plane: &Plane) -> Vec<V3> {
    const SIDE: f64 = 100.0;
    let helper = if plane.normal.x.abs() < 0.6 { v(1.0, 0.0, 0.0) } else { v(0.0, 1.0, 0.0) };
    let a = plane.normal.cross(helper).unit();
    let b = plane.normal.cross(a);
    let center = plane.normal * plane.offset;
    [(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)]
        .iter()
        .map(|&(s, t)| center + a * (s * SIDE) + b * (t * SIDE))
        .collect()
}

/// The part of a convex polygon inside a half-space.
fn clip(polygon: &[V3], plane: &Plane) -> Vec<V3> {
    const INSIDE: f64 = 1e-9;
    let mut kept = Vec::with_capacity(polygon.len() + 1);
    for (i, &from) in polygon.iter().enumerate() {
        let to = polygon[(i + 1) % polygon.len()];
        let (start, end) = (plane.normal.dot(from) - plane.offset, plane.normal.dot(to) - plane.offset);
        if start <= INSIDE {
            kept.push(from);
        }
        if (start <= INSIDE) != (end <= INSIDE) {
            kept.push(from + (to - from) * (start / (start - end)));
        }
    }
    kept
}
