//! PNG files of 8-bit RGB, each row with the filter that leaves the least.

use crate::deflate;

/// `pixels` holds `width * height` RGB triples, row by row from the top.
pub fn write(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend_from_slice(&(width as u32).to_be_bytes());
    header.extend_from_slice(&(height as u32).to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    chunk(&mut file, b"IHDR", &header);
    chunk(&mut file, b"sRGB", &[0]);
    chunk(&mut file, b"IDAT", &deflate::zlib(&filter(width * 3, pixels)));
    chunk(&mut file, b"IEND", &[]);
    file
}

fn filter(stride: usize, pixels: &[u8]) -> Vec<u8> {
    let mut filtered = Vec::with_capacity(pixels.len() + pixels.len() / stride);
    let mut above = vec![0u8; stride];
    for row in pixels.chunks(stride) {
        let mut best: Option<(u32, u8, Vec<u8>)> = None;
        for kind in 0..5u8 {
            let line: Vec<u8> = (0..stride)
                .map(|i| {
                    let left = if i < 3 { 0 } else { row[i - 3] };
                    let corner = if i < 3 { 0 } else { above[i - 3] };
                    row[i].wrapping_sub(predict(kind, left, above[i], corner))
                })
                .collect();
            let cost: u32 = line.iter().map(|&b| u32::from((b as i8).unsigned_abs())).sum();
            if best.as_ref().map_or(true, |b| cost < b.0) {
                best = Some((cost, kind, line));
            }
        }
        if let Some((_, kind, line)) = best {
            filtered.push(kind);
            filtered.extend_from_slice(&line);
        }
        above.copy_from_slice(row);
    }
    filtered
}

fn predict(kind: u8, left: u8, up: u8, corner: u8) -> u8 {
    match kind {
        0 => 0,
        1 => left,
        2 => up,
        3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
        _ => {
            let (a, b, c) = (i16::from(left), i16::from(up), i16::from(corner));
            let guess = a + b - c;
            let (da, db, dc) = ((guess - a).abs(), (guess - b).abs(), (guess - c).abs());
            if da <= db && da <= dc {
                left
            } else if db <= dc {
                up
            } else {
                corner
            }
        }
    }
}

fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    file.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend_from_slice(kind);
    file.extend_from_slice(data);
    let sum = crc32(&file[start..]);
    file.extend_from_slice(&sum.to_be_bytes());
}

fn crc32(data: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (n, entry) in table.iter_mut().enumerate() {
        *entry = (0..8).fold(n as u32, |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 });
    }
    !data.iter().fold(!0, |c, &b| table[((c ^ u32::from(b)) & 255) as usize] ^ (c >> 8))
}
