//! A guest that uses Rust's standard library as ordinary programs do. Rebuild beside this file with
//! `rustc --edition 2024 --target wasm32-wasip1 -C opt-level=s -C lto -C strip=symbols -C panic=abort std_guest.rs`.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    assert_eq!(args, ["task", "--greeting", "grüß dich"]);
    assert_eq!(std::env::vars().count(), 0);

    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin).unwrap();
    assert_eq!(stdin, fs::read_to_string("/in/first.txt").unwrap());

    let mut names: Vec<_> = fs::read_dir("/in").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["first.txt", "second.txt"]);
    assert!(fs::write("/in/first.txt", "changed").is_err());
    assert!(fs::File::create("/in/new").is_err());
    assert!(fs::remove_file("/in/first.txt").is_err());
    assert!(fs::read("/etc/passwd").is_err());
    assert!(fs::read("/out/../in/first.txt").is_err() || stdin == fs::read_to_string("/in/first.txt").unwrap());

    eprintln!("progress 1/3 folders");
    fs::create_dir_all("/out/a/b/c").unwrap();
    for index in 0..200 {
        fs::write(format!("/out/a/b/file-{index:03}"), vec![b'x'; index]).unwrap();
    }
    assert_eq!(fs::read_dir("/out/a/b").unwrap().count(), 201);
    fs::remove_dir_all("/out/a").unwrap();
    assert!(!Path::new("/out/a").exists());

    eprintln!("progress 2/3 files");
    let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open("/out/notes.tmp").unwrap();
    file.write_all(b"hello brave world").unwrap();
    file.seek(SeekFrom::Start(6)).unwrap();
    file.write_all(b"small").unwrap();
    file.set_len(11).unwrap();
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello small");
    drop(file);
    fs::rename("/out/notes.tmp", "/out/notes.txt").unwrap();
    let mut log = fs::OpenOptions::new().append(true).open("/out/notes.txt").unwrap();
    log.write_all(b" world").unwrap();
    assert_eq!(fs::metadata("/out/notes.txt").unwrap().len(), 17);
    assert_eq!(fs::read_to_string("/out/notes.txt").unwrap(), "hello small world");
    fs::create_dir("/out/sub").unwrap();
    fs::copy("/in/second.txt", "/out/sub/second.txt").unwrap();
    assert!(fs::remove_dir("/out/sub").is_err());

    eprintln!("progress 3/3 time");
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(5));
    assert!(began.elapsed() >= Duration::from_secs(5));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut words = HashMap::new();
    for word in stdin.split_whitespace() {
        *words.entry(word).or_insert(0) += 1;
    }
    println!("{} {} words {}", args[2], words.len(), now.as_secs());
}
