//! `hog`: takes memory and touches it until there is no more; for the memory limit.

fn main() {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        eaten.push(vec![1; 1 << 20]);
        if eaten.len() % 16 == 0 {
            let sum: u64 = eaten.iter().map(|block| u64::from(block[eaten.len()])).sum();
            println!("{sum} MiB");
        }
    }
}
