//! The photographer's studio: soft boxes around the ring, and how light becomes pixels.

use crate::vec3::{smoothstep, v, V3};

/// A rectangular light far away: where it is, its two half sizes (as tangents), its edge and its strength.
struct SoftBox {
    toward: V3,
    side: V3,
    up: V3,
    half: (f64, f64),
    edge: f64,
    power: f64,
}

pub struct Studio {
    boxes: Vec<SoftBox>,
    sparks: Vec<V3>,
    pub key: V3,
}

impl Studio {
    pub fn new() -> Studio {
        let soft = |azimuth: f64, height: f64, half: (f64, f64), edge: f64, power: f64| {
            let toward = direction(azimuth, height);
            let side = v(0.0, 0.0, 1.0).cross(toward).unit();
            SoftBox { toward, side, up: toward.cross(side), half, edge, power }
        };
        let boxes = vec![
            soft(-118.0, 52.0, (0.55, 0.40), 0.12, 3.6),
            soft(-15.0, 24.0, (0.16, 0.80), 0.08, 3.2),
            soft(150.0, 30.0, (0.20, 0.70), 0.10, 2.2),
            soft(60.0, 62.0, (0.50, 0.22), 0.12, 2.4),
            soft(-75.0, 16.0, (0.10, 0.42), 0.06, 1.5),
        ];
        // Small bright lamps that only the stone is keen enough to show.
        let sparks = (0..26)
            .map(|k| {
                let k = f64::from(k);
                direction(k * 137.508, 8.0 + 78.0 * (k / 26.0).powf(0.8))
            })
            .collect();
        Studio { boxes, sparks, key: direction(-118.0, 58.0) }
    }

    /// Light that arrives from a direction above the floor.
    pub fn sky(&self, d: V3) -> V3 {
        let height = d.z.clamp(-1.0, 1.0);
        let wall = 0.06 + 0.30 * smoothstep(0.05, 1.0, height) + 0.16 * smoothstep(0.16, -0.05, height);
        let mut light = v(wall * 1.02, wall, wall * 0.985);
        for lamp in &self.boxes {
            let depth = d.dot(lamp.toward);
            if depth <= 0.05 {
                continue;
            }
            let across = (d.dot(lamp.side) / depth).abs() - lamp.half.0;
            let along = (d.dot(lamp.up) / depth).abs() - lamp.half.1;
            let inside = smoothstep(lamp.edge, -lamp.edge, across) * smoothstep(lamp.edge, -lamp.edge, along);
            light = light + v(1.0, 0.985, 0.96) * (inside * lamp.power);
        }
        light
    }

    /// The same through a diamond: more contrast, and the small lamps.
    pub fn sky_of_stone(&self, d: V3) -> V3 {
        let mut light = self.sky(d) * 0.80 - v(0.05, 0.05, 0.045);
        for &lamp in &self.sparks {
            let near = d.dot(lamp);
            if near > 0.972 {
                light = light + v(1.0, 1.0, 1.0) * (6.0 * smoothstep(0.972, 0.99, near));
            }
        }
        light
    }
}

/// Azimuth from +x towards +y and height above the floor, in degrees.
pub fn direction(azimuth: f64, height: f64) -> V3 {
    let ((sa, ca), (sh, ch)) = (azimuth.to_radians().sin_cos(), height.to_radians().sin_cos());
    v(ca * ch, sa * ch, sh)
}

/// Compresses highlights, as film does; the result is linear light from 0 to 1.
pub fn develop(light: V3) -> V3 {
    let channel = |c: f64| {
        let c = c.max(0.0) * 0.86;
        (c * (2.51 * c + 0.03) / (c * (2.43 * c + 0.59) + 0.14)).clamp(0.0, 1.0)
    };
    // Very bright light turns white in all channels.
    let peak = light.x.max(light.y).max(light.z);
    let white = smoothstep(2.2, 10.0, peak) * 0.6;
    let color = light.lerp(v(peak, peak, peak), white);
    v(channel(color.x), channel(color.y), channel(color.z))
}

/// sRGB bytes of linear light from 0 to 1.
pub fn encode(linear: V3) -> [u8; 3] {
    let channel = |c: f64| {
        let c = c.clamp(0.0, 1.0);
        let s = if c <= 0.003_130_8 { 12.92 * c } else { 1.055 * c.powf(1.0 / 2.4) - 0.055 };
        (s * 255.0 + 0.5) as u8
    };
    [channel(linear.x), channel(linear.y), channel(linear.z)]
}
