//! Is a binary STL file a closed body? The model comes from another agent, so the creator looks for himself.

use std::collections::BTreeMap;
use thiserror::Error;

/// Longest file that is looked at, in bytes.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
const HEADER: usize = 84;
const TRIANGLE: usize = 50;

/// What a watertight model measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Number of triangles.
    pub triangles: usize,
    /// Closed bodies (band, prongs, stone and so on).
    pub shells: usize,
    /// Extent along x, y and z, in millimetres.
    pub size_mm: [f64; 3],
}

/// Why a file is no watertight model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StlError {
    /// It is cut off, too long, or its count does not fit its length.
    #[error("the model is no binary STL file: {0} bytes do not fit its triangle count, or exceed 64 MiB")]
    Length(usize),
    /// A corner is infinite or not a number.
    #[error("triangle {0} of the model has a corner that is no point")]
    NoPoint(usize),
    /// Two corners coincide or all lie on a line.
    #[error("triangle {0} of the model is degenerate")]
    Degenerate(usize),
    /// The normal that the file states points the other way.
    #[error("the normal of triangle {0} of the model points inwards")]
    Normal(usize),
    /// An edge is not shared by exactly two triangles that pass it in opposite directions.
    #[error("the model is not watertight: an edge of triangle {0} has no single opposite")]
    Open(usize),
    /// A body is inside out.
    #[error("a body of the model is inside out or encloses nothing")]
    InsideOut,
}

type Point = [f64; 3];

/// Checks every triangle, every edge and every body.
///
/// # Errors
/// The first fault found. Works in `O(n log n)` and some 300 bytes for each triangle.
pub fn check(file: &[u8]) -> Result<Facts, StlError> {
    let length = StlError::Length(file.len());
    let count = file.get(80..HEADER).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let count = count.ok_or(length.clone())? as usize;
    if file.len() > MAX_BYTES || count == 0 || count.checked_mul(TRIANGLE) != file.len().checked_sub(HEADER) {
        return Err(length);
    }
    let mut ids: BTreeMap<[u32; 3], u32> = BTreeMap::new();
    let mut edges: Vec<(u32, u32, usize)> = Vec::with_capacity(count * 3);
    let mut volumes: Vec<(u32, f64)> = Vec::with_capacity(count);
    let (mut low, mut high) = ([f64::MAX; 3], [f64::MIN; 3]);
    for (index, bytes) in file[HEADER..].chunks_exact(TRIANGLE).enumerate() {
        let (normal, corners) = read(bytes);
        if corners.iter().flatten().any(|c| !c.is_finite()) {
            return Err(StlError::NoPoint(index));
        }
        let across = cross(minus(corners[1], corners[0]), minus(corners[2], corners[0]));
        if dot(across, across).sqrt() < 1e-9 {
            return Err(StlError::Degenerate(index));
        }
        if normal != [0.0; 3] && dot(normal, across) <= 0.0 {
            return Err(StlError::Normal(index));
        }
        let named = corners.map(|corner| {
            // Adding zero makes -0 and 0 the same point.
            let key = corner.map(|c| (c as f32 + 0.0).to_bits());
            let next = ids.len() as u32;
            *ids.entry(key).or_insert(next)
        });
        for k in 0..3 {
            edges.push((named[k], named[(k + 1) % 3], index));
        }
        volumes.push((named[0], dot(corners[0], cross(corners[1], corners[2])) / 6.0));
        for corner in corners {
            for axis in 0..3 {
                low[axis] = low[axis].min(corner[axis]);
                high[axis] = high[axis].max(corner[axis]);
            }
        }
    }
    pair_edges(&mut edges)?;
    let shells = count_shells(ids.len(), &edges, &volumes)?;
    Ok(Facts { triangles: count, shells, size_mm: minus(high, low) })
}

fn read(bytes: &[u8]) -> (Point, [Point; 3]) {
    let number = |k: usize| {
        let mut raw = [0; 4];
        raw.copy_from_slice(&bytes[4 * k..4 * k + 4]);
        f64::from(f32::from_le_bytes(raw))
    };
    let point = |k: usize| [number(3 * k), number(3 * k + 1), number(3 * k + 2)];
    (point(0), [point(1), point(2), point(3)])
}

/// Each directed edge once, and its opposite once.
fn pair_edges(edges: &mut [(u32, u32, usize)]) -> Result<(), StlError> {
    edges.sort_unstable();
    if let Some(pair) = edges.windows(2).find(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1)) {
        return Err(StlError::Open(pair[1].2));
    }
    let lonely = edges.iter().find(|(from, to, _)| edges.binary_search_by_key(&(*to, *from), |e| (e.0, e.1)).is_err());
    lonely.map_or(Ok(()), |edge| Err(StlError::Open(edge.2)))
}

/// Joins corners along edges; each body that remains must enclose a positive volume.
fn count_shells(points: usize, edges: &[(u32, u32, usize)], volumes: &[(u32, f64)]) -> Result<usize, StlError> {
    let mut parents: Vec<u32> = (0..points as u32).collect();
    let root = |parents: &mut Vec<u32>, mut point: u32| {
        while parents[point as usize] != point {
            parents[point as usize] = parents[parents[point as usize] as usize];
            point = parents[point as usize];
        }
        point
    };
    for (from, to, _) in edges {
        let (a, b) = (root(&mut parents, *from), root(&mut parents, *to));
        parents[a as usize] = b;
    }
    let mut bodies: BTreeMap<u32, f64> = BTreeMap::new();
    for (point, volume) in volumes {
        *bodies.entry(root(&mut parents, *point)).or_default() += volume;
    }
    if bodies.values().all(|volume| *volume > 0.0) { Ok(bodies.len()) } else { Err(StlError::InsideOut) }
}

fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn cross(a: Point, b: Point) -> Point {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORNERS: [[f32; 3]; 4] = [[0.0; 3], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]];
    const FACES: [[usize; 3]; 4] = [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]];

    fn stl(faces: &[[usize; 3]]) -> Vec<u8> {
        let mut file = vec![0; 80];
        file.extend((faces.len() as u32).to_le_bytes());
        for face in faces {
            file.extend([0; 12]);
            file.extend(face.iter().flat_map(|corner| CORNERS[*corner]).flat_map(f32::to_le_bytes));
            file.extend([0, 0]);
        }
        file
    }

    #[test]
    fn a_tetrahedron_is_watertight() {
        let facts = check(&stl(&FACES)).unwrap();
        assert_eq!(facts, Facts { triangles: 4, shells: 1, size_mm: [1.0, 2.0, 3.0] });
    }

    #[test]
    fn a_missing_face_a_turned_face_and_a_body_inside_out_are_found() {
        assert!(matches!(check(&stl(&FACES[..3])), Err(StlError::Open(_))));
        let mut turned = FACES;
        turned[2].swap(0, 1);
        assert!(matches!(check(&stl(&turned)), Err(StlError::Open(_))));
        assert_eq!(check(&stl(&FACES.map(|[a, b, c]| [a, c, b]))), Err(StlError::InsideOut));
        let mut thrice = FACES.to_vec();
        thrice.push(FACES[0]);
        assert!(matches!(check(&stl(&thrice)), Err(StlError::Open(_))));
    }

    #[test]
    fn degenerate_and_broken_triangles_are_found() {
        let mut flat = FACES;
        flat[1] = [0, 1, 1];
        assert_eq!(check(&stl(&flat)), Err(StlError::Degenerate(1)));
        let mut file = stl(&FACES);
        file[84 + 12..84 + 16].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(check(&file), Err(StlError::NoPoint(0)));
        let mut file = stl(&FACES);
        file[84 + 8..84 + 12].copy_from_slice(&1f32.to_le_bytes());
        assert_eq!(check(&file), Err(StlError::Normal(0)));
    }

    #[test]
    fn a_file_of_another_length_than_it_says_is_refused() {
        let file = stl(&FACES);
        for cut in [0, 83, 84, file.len() - 1] {
            assert_eq!(check(&file[..cut]), Err(StlError::Length(cut)));
        }
        let mut lying = file;
        lying[80..84].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(check(&lying), Err(StlError::Length(_))));
    }
}
