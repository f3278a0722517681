//! `ring`: from an idea on standard input to `/out/model.stl` and `/out/model.png`.
//!
//! Lines `progress N/100` go to standard error on the way, a summary in JSON to standard output.

mod band;
mod bvh;
mod deflate;
mod gem;
mod idea;
mod light;
mod mesh;
mod png;
mod render;
mod scene;
mod stl;
mod vec3;

use gem::Gem;
use idea::Idea;
use mesh::Mesh;
use scene::{Scene, Shadow};
use std::io::Read;
use vec3::v;

const WIDTH: usize = 960;
const HEIGHT: usize = 720;

fn main() {
    if let Err(error) = run() {
        eprintln!("ring: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|e| format!("cannot read the idea: {e}"))?;
    let idea = Idea::parse(&text)?;
    progress(1);
    let layout = band::Layout::new(&idea);
    let gem = Gem::new(layout.stone_radius, layout.girdle);
    let stone = gem.mesh();
    let mut metal = Mesh::default();
    for shell in band::metal(&idea, &layout) {
        shell.check_watertight()?;
        metal.append(&shell);
    }
    stone.check_watertight()?;
    let mut model = Mesh::default();
    model.append(&metal);
    model.append(&stone);
    progress(5);
    save("/out/model.stl", &stl::write(&model))?;
    let volume = mesh::union_volume(&metal, 0.06);
    progress(10);
    save("/out/model.png", &photograph(&idea, &layout, &metal, gem))?;
    progress(100);
    let (low, high) = model.bounds();
    let size = high - low;
    println!(
        "{{\"triangles\":{},\"size_mm\":[{:.2},{:.2},{:.2}],\"inner_diameter_mm\":{:.2},\"stone_diameter_mm\":{:.2},\
         \"metal\":\"{}\",\"metal_volume_mm3\":{:.1},\"metal_mass_g\":{:.2},\"stone_volume_mm3\":{:.1},\"facets\":{}}}",
        model.triangles.len(),
        size.x,
        size.y,
        size.z,
        2.0 * idea.inner_radius,
        2.0 * layout.stone_radius,
        idea.metal.name,
        volume,
        volume * idea.metal.density / 1000.0,
        stone.volume(),
        gem::FACETS,
    );
    Ok(())
}

fn photograph(idea: &Idea, layout: &band::Layout, metal: &Mesh, gem: Gem) -> Vec<u8> {
    let (low, high) = metal.bounds();
    let height = high.z - low.z;
    let radius = layout.stone_radius;
    let center = v(0.0, 0.0, layout.girdle - 0.2 * radius);
    let mut scene = Scene::new(metal, gem, center, radius, idea.metal);
    scene.shadow = Shadow::cast(&scene, 1.7 * height);
    progress(18);
    let target = v(0.0, 0.0, low.z + 0.475 * height);
    let camera = render::Camera::new(target, light::direction(-62.0, 27.0), 1.32 * height, WIDTH, HEIGHT);
    let pixels = render::picture(&scene, &camera, |percent| progress(18 + percent * 80 / 100));
    png::write(WIDTH, HEIGHT, &pixels)
}

fn save(path: &str, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|e| format!("cannot write {path}: {e}"))
}

fn progress(percent: usize) {
    eprintln!("progress {percent}/100");
}
