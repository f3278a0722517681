//! Light paths: mirror-bright metal, a diamond with total reflection and fire, a pale floor.

use crate::bvh::{blend, Bvh, Hit};
use crate::gem::Gem;
use crate::idea::Metal;
use crate::light::Studio;
use crate::mesh::Mesh;
use crate::vec3::{smoothstep, v, V3};

/// Refractive index of diamond for red, green and blue.
const INDEX: [f64; 3] = [2.404, 2.417, 2.440];
const GREEN: f64 = INDEX[1];
/// Reflections followed inside the stone.
const BOUNCES: usize = 7;
const FAR: f64 = 1e9;
const FLOOR_COLOR: V3 = v(0.80, 0.785, 0.765);

/// What a ray from the camera met first.
#[derive(Clone, Copy, PartialEq)]
pub enum Seen {
    Floor,
    /// The floor where it mirrors the ring.
    Mirror,
    Metal,
    Stone,
}

pub struct Scene<'a> {
    pub studio: Studio,
    pub metal: &'a Mesh,
    pub normals: Vec<V3>,
    pub bvh: Bvh,
    pub gem: Gem,
    pub gem_center: V3,
    pub gem_radius: f64,
    pub color: V3,
    pub floor: f64,
    pub shadow: Shadow,
}

impl<'a> Scene<'a> {
    pub fn new(mesh: &'a Mesh, gem: Gem, gem_center: V3, gem_radius: f64, metal: &Metal) -> Scene<'a> {
        let [r, g, b] = metal.color;
        Scene {
            studio: Studio::new(),
            normals: mesh.normals(),
            bvh: Bvh::new(mesh),
            gem,
            gem_center,
            gem_radius,
            color: v(r, g, b),
            floor: mesh.bounds().0.z,
            shadow: Shadow::none(),
            metal: mesh,
        }
    }

    /// Light that comes back along a ray from the camera; `None` where it sees only the floor.
    pub fn look(&self, origin: V3, d: V3, blur: V3) -> (Seen, Option<V3>) {
        let metal = self.bvh.nearest(origin, d, FAR);
        let limit = metal.as_ref().map_or(FAR, |hit| hit.distance);
        if let Some((distance, normal)) = self.enter_stone(origin, d, limit) {
            return (Seen::Stone, Some(self.stone(origin + d * distance, d, normal, 2)));
        }
        match metal {
            Some(hit) => (Seen::Metal, Some(self.polished(origin, d, &hit, 2, blur))),
            None => (Seen::Floor, None),
        }
    }

    fn trace(&self, origin: V3, d: V3, depth: u32) -> V3 {
        let metal = self.bvh.nearest(origin, d, FAR);
        let limit = metal.as_ref().map_or(FAR, |hit| hit.distance);
        if depth > 0 {
            if let Some((distance, normal)) = self.enter_stone(origin, d, limit) {
                return self.stone(origin + d * distance, d, normal, depth - 1);
            }
        }
        match metal {
            Some(hit) => self.polished(origin, d, &hit, depth, v(0.0, 0.0, 0.0)),
            None => self.surroundings(origin, d),
        }
    }

    #[inline(never)]
    fn surroundings(&self, origin: V3, d: V3) -> V3 {
        if d.z >= -1e-6 {
            return self.studio.sky(d);
        }
        let distance = (self.floor - origin.z) / d.z;
        let place = origin + d * distance.max(0.0);
        let fade = smoothstep(10.0, 90.0, v(place.x, place.y, 0.0).length());
        let lit = FLOOR_COLOR * (0.94 * (1.0 - 0.85 * self.shadow.at(place.x, place.y)));
        lit.lerp(v(0.24, 0.235, 0.23), fade)
    }

    fn polished(&self, origin: V3, d: V3, hit: &Hit, depth: u32, blur: V3) -> V3 {
        let place = origin + d * hit.distance;
        let triangle = self.metal.triangles[hit.triangle];
        let mut normal = blend(triangle.map(|i| self.normals[i as usize]), hit.weights);
        if normal.dot(d) > -0.02 {
            normal = (normal - d * (normal.dot(d) + 0.02)).unit();
        }
        let facing = -normal.dot(d);
        let tint = self.color + (v(1.0, 1.0, 1.0) - self.color) * (1.0 - facing).powi(5);
        let mirrored = (d.reflect(normal) + blur).unit();
        let start = place + normal * 2e-3;
        let light = if depth == 0 { self.surroundings(start, mirrored) } else { self.trace(start, mirrored, depth - 1) };
        light.times(tint)
    }

    /// The mirror image of the ring in the floor, and how high above the floor it stands.
    pub fn mirrored(&self, place: V3, d: V3) -> Option<(V3, f64)> {
        let up = v(d.x, d.y, -d.z);
        let metal = self.bvh.nearest(place, up, FAR);
        let limit = metal.as_ref().map_or(FAR, |hit| hit.distance);
        if let Some((distance, normal)) = self.enter_stone(place, up, limit) {
            let height = distance * up.z;
            return Some((self.stone(place + up * distance, up, normal, 0), height));
        }
        metal.map(|hit| (self.polished(place, up, &hit, 1, v(0.0, 0.0, 0.0)), hit.distance * up.z))
    }

    fn enter_stone(&self, origin: V3, d: V3, limit: f64) -> Option<(f64, V3)> {
        let to_center = self.gem_center - origin;
        let along = to_center.dot(d);
        if to_center.dot(to_center) - along * along > self.gem_radius * self.gem_radius * 1.03 {
            return None;
        }
        let (mut first, mut last, mut normal) = (1e-4, limit, None);
        for plane in &self.gem.facets {
            let (gap, speed) = (plane.offset - plane.normal.dot(origin), plane.normal.dot(d));
            if speed < 0.0 {
                if gap / speed > first {
                    first = gap / speed;
                    normal = Some(plane.normal);
                }
            } else if gap < speed * last {
                last = gap / speed;
            }
            if first > last {
                return None;
            }
        }
        let (enter, leave) = girdle(origin, d, self.gem_radius)?;
        if enter > first {
            first = enter;
            let place = origin + d * enter;
            normal = Some(v(place.x, place.y, 0.0).unit());
        }
        if first > last.min(leave) {
            return None;
        }
        normal.map(|normal| (first, normal))
    }

    /// From inside: the distance to the surface and its outward normal.
    fn leave_stone(&self, origin: V3, d: V3) -> (f64, V3) {
        let (mut nearest, mut normal) = (FAR, d);
        for plane in &self.gem.facets {
            let speed = plane.normal.dot(d);
            if speed > 1e-9 {
                let gap = plane.offset - plane.normal.dot(origin);
                if gap < nearest * speed {
                    nearest = gap / speed;
                    normal = plane.normal;
                }
            }
        }
        if let Some((_, leave)) = girdle(origin, d, self.gem_radius) {
            if leave < nearest {
                let place = origin + d * leave;
                return (leave, v(place.x, place.y, 0.0).unit());
            }
        }
        (nearest.max(0.0), normal)
    }

    fn stone(&self, place: V3, d: V3, normal: V3, depth: u32) -> V3 {
        let outside = fresnel(-d.dot(normal), 1.0 / GREEN);
        let mirrored = d.reflect(normal);
        let start = place + normal * 2e-3;
        let glance = match self.bvh.nearest(start, mirrored, FAR) {
            Some(hit) if depth > 0 => self.polished(start, mirrored, &hit, 0, v(0.0, 0.0, 0.0)),
            _ => self.surroundings(start, mirrored),
        };
        let mut light = glance * outside;
        let mut weight = 1.0 - outside;
        let mut ray = match refract(d, normal, 1.0 / GREEN) {
            Some(inside) => inside,
            None => return light,
        };
        let mut at = place;
        for _ in 0..BOUNCES {
            let (distance, wall) = self.leave_stone(at, ray);
            at = at + ray * distance;
            if let Some(exit) = refract(ray, -wall, GREEN) {
                let back = fresnel(ray.dot(wall), GREEN);
                let share = weight * (1.0 - back);
                // What hardly shows need not look for the metal around the stone.
                let near = depth > 0 && share > 0.16;
                light = light + self.fire(at, ray, wall, exit, near) * share;
                weight *= back;
                if weight < 0.05 {
                    return light;
                }
            }
            ray = ray.reflect(wall).unit();
        }
        light + v(0.16, 0.16, 0.17) * weight
    }

    /// Light from outside along a ray that leaves the stone; each colour bends a little differently.
    fn fire(&self, at: V3, ray: V3, wall: V3, exit: V3, near: bool) -> V3 {
        let start = at + wall * 2e-3;
        if near {
            if let Some(hit) = self.bvh.nearest(start, exit, FAR) {
                return self.polished(start, exit, &hit, 0, v(0.0, 0.0, 0.0));
            }
        }
        let seen = |index: f64| {
            let d = refract(ray, -wall, index).unwrap_or(exit);
            if d.z < 0.0 {
                self.surroundings(start, d) * 0.28
            } else {
                self.studio.sky_of_stone(d)
            }
        };
        v(seen(INDEX[0]).x, seen(INDEX[1]).y, seen(INDEX[2]).z)
    }
}

/// Where a ray enters and leaves the endless cylinder of the girdle.
fn girdle(o: V3, d: V3, radius: f64) -> Option<(f64, f64)> {
    let a = d.x * d.x + d.y * d.y;
    if a < 1e-12 {
        return Some((-FAR, FAR));
    }
    let b = o.x * d.x + o.y * d.y;
    let c = o.x * o.x + o.y * o.y - radius * radius;
    let root = b * b - a * c;
    (root > 0.0).then(|| ((-b - root.sqrt()) / a, (-b + root.sqrt()) / a))
}

/// `ratio` = index on this side / index beyond; `n` points against `d`.
fn refract(d: V3, n: V3, ratio: f64) -> Option<V3> {
    let cos = -d.dot(n);
    let k = 1.0 - ratio * ratio * (1.0 - cos * cos);
    (k > 0.0).then(|| (d * ratio + n * (ratio * cos - k.sqrt())).unit())
}

/// Reflected share of unpolarised light.
fn fresnel(cos: f64, ratio: f64) -> f64 {
    let k = 1.0 - ratio * ratio * (1.0 - cos * cos);
    if k <= 0.0 {
        return 1.0;
    }
    let beyond = k.sqrt();
    let s = (ratio * cos - beyond) / (ratio * cos + beyond);
    let p = (cos - ratio * beyond) / (cos + ratio * beyond);
    0.5 * (s * s + p * p)
}

/// How much of the studio's light the ring keeps from the floor, on a square grid around it.
pub struct Shadow {
    cells: Vec<f64>,
    side: usize,
    half: f64,
}

impl Shadow {
    pub fn none() -> Shadow {
        Shadow { cells: vec![0.0; 4], side: 2, half: 1.0 }
    }

    /// Shadow rays towards the whole sky and, counted double, towards the key light.
    pub fn cast(scene: &Scene, reach: f64) -> Shadow {
        const SIDE: usize = 96;
        const RAYS: usize = 40;
        let mut cells = vec![0.0; SIDE * SIDE];
        for (i, cell) in cells.iter_mut().enumerate() {
            let position = |k: usize| (k as f64 / (SIDE - 1) as f64 * 2.0 - 1.0) * reach;
            let place = v(position(i % SIDE), position(i / SIDE), scene.floor + 1e-3);
            let turn = (i as f64 * 0.754_877_666).fract();
            let mut dark = 0.0;
            for k in 0..RAYS {
                let share = (k as f64 + 0.5) / RAYS as f64;
                let angle = (k as f64 * 0.618_034 + turn).fract() * std::f64::consts::TAU;
                let (wide, (sin, cos)) = (share.sqrt(), angle.sin_cos());
                let sky = v(wide * cos, wide * sin, (1.0 - share).sqrt());
                let d = if k % 2 == 0 { sky } else { (scene.studio.key + sky * 0.42).unit() };
                if scene.bvh.blocked(place, d, FAR) {
                    dark += 1.0 / RAYS as f64;
                }
            }
            *cell = dark;
        }
        for _ in 0..2 {
            cells = blurred(&cells, SIDE);
        }
        Shadow { cells, side: SIDE, half: reach }
    }

    pub fn at(&self, x: f64, y: f64) -> f64 {
        let scale = (self.side - 1) as f64 / (2.0 * self.half);
        let (x, y) = ((x + self.half) * scale, (y + self.half) * scale);
        let last = (self.side - 1) as f64;
        if !(x >= 0.0 && y >= 0.0 && x < last && y < last) {
            return 0.0;
        }
        let (column, row) = (x as usize, y as usize);
        let (s, t) = (x.fract(), y.fract());
        let at = |c: usize, r: usize| self.cells[r * self.side + c];
        let low = at(column, row) * (1.0 - s) + at(column + 1, row) * s;
        let high = at(column, row + 1) * (1.0 - s) + at(column + 1, row + 1) * s;
        let edge = [x, y, last - x, last - y].iter().fold(f64::MAX, |a, &b| a.min(b));
        (low * (1.0 - t) + high * t) * smoothstep(0.0, last * 0.12, edge)
    }
}

fn blurred(cells: &[f64], side: usize) -> Vec<f64> {
    let clamp = |k: isize| k.clamp(0, side as isize - 1) as usize;
    let mut out = cells.to_vec();
    for row in 0..side {
        for column in 0..side {
            let mut sum = 0.0;
            for (dy, wy) in [(-1isize, 1.0), (0, 2.0), (1, 1.0)] {
                for (dx, wx) in [(-1isize, 1.0), (0, 2.0), (1, 1.0)] {
                    sum += wx * wy * cells[clamp(row as isize + dy) * side + clamp(column as isize + dx)];
                }
            }
            out[row * side + column] = sum / 16.0;
        }
    }
    out
}
