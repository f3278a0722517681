//! The picture: a camera, one look at each pixel, more where there is more to see.

use crate::light::{develop, encode};
use crate::scene::{Scene, Seen};
use crate::vec3::{smoothstep, v, V3};

const FIELD: f64 = 21.0;

pub struct Camera {
    eye: V3,
    forward: V3,
    right: V3,
    up: V3,
    scale: f64,
    width: usize,
    height: usize,
}

impl Camera {
    /// Looks from azimuth and height (degrees) at `target`, so far away that `size` millimetres fill the height.
    pub fn new(target: V3, toward: V3, size: f64, width: usize, height: usize) -> Camera {
        let distance = size / 2.0 / (FIELD / 2.0).to_radians().tan();
        let forward = -toward;
        let right = forward.cross(v(0.0, 0.0, 1.0)).unit();
        let scale = (FIELD / 2.0).to_radians().tan() * 2.0 / height as f64;
        let eye = target + toward * distance;
        Camera { eye, forward, right, up: right.cross(forward), scale, width, height }
    }

    fn ray(&self, x: f64, y: f64) -> V3 {
        let (s, t) = ((x - self.width as f64 / 2.0) * self.scale, (self.height as f64 / 2.0 - y) * self.scale);
        (self.forward + self.right * s + self.up * t).unit()
    }
}

struct Sample {
    seen: Seen,
    /// Linear light after development, 0 to 1.
    color: V3,
    /// What outshines the film, for the glow around sparkles.
    excess: f64,
}

/// RGB bytes; `progress` is called with 0 to 100.
pub fn picture(scene: &Scene, camera: &Camera, mut progress: impl FnMut(usize)) -> Vec<u8> {
    let (width, height) = (camera.width, camera.height);
    let mut samples = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            samples.push(sample(scene, camera, x as f64 + 0.5, y as f64 + 0.5, v(0.0, 0.0, 0.0)));
        }
        if y % 24 == 0 {
            progress(30 * y / height);
        }
    }
    let mut colors: Vec<V3> = samples.iter().map(|s| s.color).collect();
    let mut excess: Vec<f64> = samples.iter().map(|s| s.excess).collect();
    for y in 0..height {
        for x in 0..width {
            let i = y * width + x;
            let count = wanted(&samples, x, y, width, height);
            for k in 0..count {
                // The R2 sequence covers the pixel evenly; the same offsets blur the mirror a little.
                let k1 = (k + 1) as f64;
                let (dx, dy) = ((k1 * 0.754_877_666).fract(), (k1 * 0.569_840_291).fract());
                let blur = (camera.right * (dx - 0.5) + camera.up * (dy - 0.5)) * 0.035;
                let more = sample(scene, camera, x as f64 + dx, y as f64 + dy, blur);
                colors[i] = colors[i] + more.color;
                excess[i] += more.excess;
            }
            let total = (count + 1) as f64;
            colors[i] = colors[i] * (1.0 / total);
            excess[i] /= total;
        }
        if y % 24 == 0 {
            progress(30 + 68 * y / height);
        }
    }
    let glow = glow(&excess, width, height);
    let mut bytes = Vec::with_capacity(width * height * 3);
    for (color, glow) in colors.iter().zip(glow) {
        let glow = (glow * 0.20).min(0.35);
        let lit = *color + (v(1.0, 0.995, 0.98) - *color) * glow;
        bytes.extend_from_slice(&encode(lit));
    }
    bytes
}

/// Further samples for a pixel, by what it and its neighbours show.
fn wanted(samples: &[Sample], x: usize, y: usize, width: usize, height: usize) -> usize {
    let here = &samples[y * width + x];
    let mut contrast: f64 = 0.0;
    let mut border = false;
    for (dx, dy) in [(-1isize, 0isize), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1)] {
        let (nx, ny) = (x as isize + dx, y as isize + dy);
        if nx < 0 || ny < 0 || nx >= width as isize || ny >= height as isize {
            continue;
        }
        let other = &samples[ny as usize * width + nx as usize];
        border |= other.seen != here.seen;
        let apart = here.color - other.color;
        contrast = contrast.max(apart.x.abs().max(apart.y.abs()).max(apart.z.abs()));
    }
    match here.seen {
        Seen::Stone => 6,
        _ if border && here.seen != Seen::Mirror => 7,
        Seen::Metal if contrast > 0.08 => 4,
        Seen::Metal => 1,
        Seen::Mirror => 1,
        Seen::Floor if contrast > 0.02 => 3,
        Seen::Floor => 0,
    }
}

fn sample(scene: &Scene, camera: &Camera, x: f64, y: f64, blur: V3) -> Sample {
    let d = camera.ray(x, y);
    let (seen, light) = scene.look(camera.eye, d, blur);
    match light {
        Some(light) => {
            let excess = (light.x.max(light.y).max(light.z) - 2.2).clamp(0.0, 5.0);
            Sample { seen, color: develop(light), excess }
        }
        None => backdrop(scene, camera, d, x, y, blur),
    }
}

/// Paper that curves from floor to wall: a light gradient, the shadow, and a faint mirror image.
fn backdrop(scene: &Scene, camera: &Camera, d: V3, x: f64, y: f64, blur: V3) -> Sample {
    let (s, t) = (x / camera.width as f64 - 0.5, y / camera.height as f64);
    let middle = (s * s * 0.9 + (t - 0.55) * (t - 0.55) * 0.8).min(1.0);
    let paper = v(0.885, 0.872, 0.852).lerp(v(0.62, 0.605, 0.585), smoothstep(0.0, 0.55, middle));
    let mut seen = Seen::Floor;
    let mut color = paper;
    if d.z < -1e-6 {
        let place = camera.eye + d * ((scene.floor - camera.eye.z) / d.z);
        let shadow = scene.shadow.at(place.x, place.y);
        let shade = v(1.0, 1.0, 1.0) - v(0.80, 0.83, 0.87) * (shadow * 1.2).min(0.92);
        color = color.times(shade);
        let spread = d + v(blur.x, blur.y, 0.0) * 0.8;
        if let Some((image, height)) = scene.mirrored(place, spread.unit()) {
            let share = 0.16 * (1.0 - smoothstep(0.0, 13.0, height));
            seen = Seen::Mirror;
            color = color.lerp(develop(image), share);
        }
    }
    Sample { seen, color, excess: 0.0 }
}

/// A soft star-less halo: the excess light, blurred on a quarter-size grid.
fn glow(excess: &[f64], width: usize, height: usize) -> Vec<f64> {
    const STEP: usize = 4;
    let (columns, rows) = ((width + STEP - 1) / STEP, (height + STEP - 1) / STEP);
    let mut small = vec![0.0; columns * rows];
    for y in 0..height {
        for x in 0..width {
            small[y / STEP * columns + x / STEP] += excess[y * width + x] / (STEP * STEP) as f64;
        }
    }
    for _ in 0..3 {
        for (count, length, stride, step) in [(rows, columns, columns, 1), (columns, rows, 1, columns)] {
            for line in 0..count {
                let at = |k: usize| line * stride + k * step;
                let values: Vec<f64> = (0..length).map(|k| small[at(k)]).collect();
                for k in 0..length {
                    let (left, right) = (values[k.saturating_sub(1)], values[(k + 1).min(length - 1)]);
                    small[at(k)] = 0.25 * left + 0.5 * values[k] + 0.25 * right;
                }
            }
        }
    }
    let mut wide = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let (fx, fy) = ((x as f64 + 0.5) / STEP as f64 - 0.5, (y as f64 + 0.5) / STEP as f64 - 0.5);
            let (fx, fy) = (fx.clamp(0.0, (columns - 1) as f64), fy.clamp(0.0, (rows - 1) as f64));
            let (cx, cy) = ((fx as usize).min(columns - 1), (fy as usize).min(rows - 1));
            let (nx, ny) = ((cx + 1).min(columns - 1), (cy + 1).min(rows - 1));
            let (s, t) = (fx - cx as f64, fy - cy as f64);
            let low = small[cy * columns + cx] * (1.0 - s) + small[cy * columns + nx] * s;
            let high = small[ny * columns + cx] * (1.0 - s) + small[ny * columns + nx] * s;
            wide.push(low * (1.0 - t) + high * t);
        }
    }
    wide
}
