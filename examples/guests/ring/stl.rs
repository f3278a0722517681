//! Binary STL, in millimetres.

use crate::mesh::Mesh;

/// The file: 80 bytes of header, the count, then 50 bytes for each triangle.
pub fn write(mesh: &Mesh) -> Vec<u8> {
    let mut file = Vec::with_capacity(84 + 50 * mesh.triangles.len());
    let mut header = [b' '; 80];
    let title = b"diAI solitaire ring, unit: millimetre";
    header[..title.len()].copy_from_slice(title);
    file.extend_from_slice(&header);
    file.extend_from_slice(&(mesh.triangles.len() as u32).to_le_bytes());
    for &triangle in &mesh.triangles {
        let [a, b, c] = mesh.corners(triangle);
        let normal = (b - a).cross(c - a).unit();
        for point in [normal, a, b, c] {
            for coordinate in point.to_f32() {
                file.extend_from_slice(&coordinate.to_le_bytes());
            }
        }
        file.extend_from_slice(&[0, 0]);
    }
    file
}
