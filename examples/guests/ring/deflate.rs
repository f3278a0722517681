//! Zlib streams (RFC 1950, 1951): LZ77 with lazy matching, dynamic Huffman codes.

const WINDOW: usize = 32 * 1024;
const SHORTEST: usize = 3;
const LONGEST: usize = 258;
const CHAIN: usize = 16;
const BLOCK: usize = 48 * 1024;
const NOWHERE: u32 = u32::MAX;
const CODE_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A literal (`length` 0) or a copy of `length` bytes from `value` bytes back.
#[derive(Clone, Copy)]
struct Symbol {
    length: u16,
    value: u16,
}

/// Compresses `data` into a zlib stream.
pub fn zlib(data: &[u8]) -> Vec<u8> {
    let mut bits = Bits { out: vec![0x78, 0x9c], buffer: 0, count: 0 };
    let symbols = lz77(data);
    let mut blocks = symbols.chunks(BLOCK).peekable();
    while let Some(block) = blocks.next() {
        write_block(&mut bits, block, blocks.peek().is_none());
    }
    if symbols.is_empty() {
        write_block(&mut bits, &[], true);
    }
    let mut out = bits.finish();
    out.extend_from_slice(&adler32(data).to_be_bytes());
    out
}

fn adler32(data: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for chunk in data.chunks(5000) {
        for &byte in chunk {
            a += u32::from(byte);
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    b << 16 | a
}

/// Finds repetitions with chains of earlier places that share a hash of three bytes.
struct Matcher<'a> {
    data: &'a [u8],
    head: Vec<u32>,
    previous: Vec<u32>,
}

impl Matcher<'_> {
    fn hash(&self, at: usize) -> usize {
        let d = &self.data[at..at + 3];
        let key = u32::from(d[0]) | u32::from(d[1]) << 8 | u32::from(d[2]) << 16;
        (key.wrapping_mul(0x9e37_79b1) >> 17) as usize
    }

    fn insert(&mut self, at: usize) {
        if at + SHORTEST <= self.data.len() {
            let hash = self.hash(at);
            self.previous[at % WINDOW] = self.head[hash];
            self.head[hash] = at as u32;
        }
    }

    /// Length and distance of the longest repetition at `at`, or zeros.
    fn longest(&self, at: usize) -> (usize, usize) {
        let limit = LONGEST.min(self.data.len() - at);
        let mut best = (0, 0);
        if limit < SHORTEST {
            return best;
        }
        let mut place = self.head[self.hash(at)];
        for _ in 0..CHAIN {
            let from = place as usize;
            if place == NOWHERE || at - from > WINDOW - 300 {
                break;
            }
            if best.0 == 0 || self.data[from + best.0] == self.data[at + best.0] {
                let pairs = self.data[from..].iter().zip(&self.data[at..at + limit]);
                let length = pairs.take_while(|(a, b)| a == b).count();
                if length >= SHORTEST && length > best.0 {
                    best = (length, at - from);
                    if length == limit {
                        break;
                    }
                }
            }
            let next = self.previous[from % WINDOW];
            if next == NOWHERE || next >= place {
                break;
            }
            place = next;
        }
        best
    }
}

fn lz77(data: &[u8]) -> Vec<Symbol> {
    let mut matcher = Matcher { data, head: vec![NOWHERE; 1 << 15], previous: vec![NOWHERE; WINDOW] };
    let mut symbols = Vec::with_capacity(data.len() / 4);
    let mut at = 0;
    while at < data.len() {
        let (mut length, mut distance) = matcher.longest(at);
        matcher.insert(at);
        // A longer repetition one byte later is worth a literal now.
        while (SHORTEST..64).contains(&length) && at + 1 < data.len() {
            let (later, its_distance) = matcher.longest(at + 1);
            if later <= length {
                break;
            }
            symbols.push(Symbol { length: 0, value: u16::from(data[at]) });
            at += 1;
            matcher.insert(at);
            length = later;
            distance = its_distance;
        }
        if length < SHORTEST || (length == SHORTEST && distance > 4096) {
            symbols.push(Symbol { length: 0, value: u16::from(data[at]) });
            at += 1;
            continue;
        }
        symbols.push(Symbol { length: length as u16, value: distance as u16 });
        for passed in at + 1..at + length {
            matcher.insert(passed);
        }
        at += length;
    }
    symbols
}

/// Code, extra bits and their value of a length or a distance, from the regular tables of RFC 1951 3.2.5.
fn bucket(value: usize, first: usize, per_step: u32) -> (usize, u32, u32) {
    let offset = (value - first) as u32;
    let log = 31 - offset.max(1).leading_zeros();
    if log <= per_step {
        return (offset as usize, 0, 0);
    }
    let extra = log - per_step;
    let code = (extra << per_step) + (offset >> extra);
    (code as usize, extra, offset & ((1 << extra) - 1))
}

fn length_code(length: usize) -> (usize, u32, u32) {
    if length == LONGEST {
        return (285, 0, 0);
    }
    let (code, extra, value) = bucket(length, SHORTEST, 2);
    (257 + code, extra, value)
}

fn distance_code(distance: usize) -> (usize, u32, u32) {
    bucket(distance, 1, 1)
}

fn write_block(bits: &mut Bits, symbols: &[Symbol], last: bool) {
    let (mut literal_counts, mut distance_counts) = (vec![0u32; 286], vec![0u32; 30]);
    literal_counts[256] = 1;
    for symbol in symbols {
        if symbol.length == 0 {
            literal_counts[usize::from(symbol.value)] += 1;
        } else {
            literal_counts[length_code(usize::from(symbol.length)).0] += 1;
            distance_counts[distance_code(usize::from(symbol.value)).0] += 1;
        }
    }
    let literals = Huffman::new(&literal_counts, 15);
    let distances = Huffman::new(&distance_counts, 15);
    bits.put(u32::from(last), 1);
    bits.put(2, 2);
    write_codes(bits, &literals.lengths, &distances.lengths);
    for symbol in symbols {
        if symbol.length == 0 {
            literals.put(bits, usize::from(symbol.value));
            continue;
        }
        let (code, extra, value) = length_code(usize::from(symbol.length));
        literals.put(bits, code);
        bits.put(value, extra);
        let (code, extra, value) = distance_code(usize::from(symbol.value));
        distances.put(bits, code);
        bits.put(value, extra);
    }
    literals.put(bits, 256);
}

/// The two tables of code lengths, themselves run-length and Huffman coded.
fn write_codes(bits: &mut Bits, literals: &[u8], distances: &[u8]) {
    let all: Vec<u8> = literals.iter().chain(distances).copied().collect();
    let mut runs: Vec<(usize, u32, u32)> = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let run = all[at..].iter().take_while(|&&l| l == all[at]).count();
        let taken = match (all[at], run) {
            (0, 11..) => {
                let n = run.min(138);
                runs.push((18, n as u32 - 11, 7));
                n
            }
            (0, 3..) => {
                runs.push((17, run as u32 - 3, 3));
                run
            }
            (length, 4..) => {
                let n = (run - 1).min(6);
                runs.push((usize::from(length), 0, 0));
                runs.push((16, n as u32 - 3, 2));
                n + 1
            }
            (length, _) => {
                runs.push((usize::from(length), 0, 0));
                1
            }
        };
        at += taken;
    }
    let mut counts = vec![0u32; 19];
    for run in &runs {
        counts[run.0] += 1;
    }
    let codes = Huffman::new(&counts, 7);
    let used = (4..=19).rev().find(|&n| codes.lengths[CODE_ORDER[n - 1]] != 0).unwrap_or(4);
    bits.put(literals.len() as u32 - 257, 5);
    bits.put(distances.len() as u32 - 1, 5);
    bits.put(used as u32 - 4, 4);
    for &place in &CODE_ORDER[..used] {
        bits.put(u32::from(codes.lengths[place]), 3);
    }
    for (symbol, value, extra) in runs {
        codes.put(bits, symbol);
        bits.put(value, extra);
    }
}

/// Canonical codes of bounded length.
struct Huffman {
    lengths: Vec<u8>,
    codes: Vec<u16>,
}

impl Huffman {
    fn new(counts: &[u32], longest: u32) -> Huffman {
        let mut counts = counts.to_vec();
        // Two codes at least, so that every tree is complete for every reader.
        for k in 0..2 {
            if counts.iter().filter(|&&c| c > 0).count() < 2 && counts[k] == 0 {
                counts[k] = 1;
            }
        }
        let mut lengths = tree_depths(&counts);
        // Halving the counts flattens a tree that is too deep.
        while lengths.iter().any(|&l| u32::from(l) > longest) {
            for count in counts.iter_mut().filter(|c| **c > 0) {
                *count = *count / 2 + 1;
            }
            lengths = tree_depths(&counts);
        }
        let mut codes = vec![0u16; lengths.len()];
        let mut next = 0u32;
        for length in 1..=longest {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, &l)| u32::from(l) == length) {
                codes[symbol] = (next.reverse_bits() >> (32 - length)) as u16;
                next += 1;
            }
            next <<= 1;
        }
        Huffman { lengths, codes }
    }

    fn put(&self, bits: &mut Bits, symbol: usize) {
        bits.put(u32::from(self.codes[symbol]), u32::from(self.lengths[symbol]));
    }
}

/// Huffman's algorithm with a heap; a symbol that does not occur has depth 0.
fn tree_depths(counts: &[u32]) -> Vec<u8> {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    let mut heap: BinaryHeap<Reverse<(u32, usize)>> =
        counts.iter().enumerate().filter(|(_, &c)| c > 0).map(|(i, &c)| Reverse((c, i))).collect();
    let mut parents: Vec<usize> = vec![0; counts.len()];
    while let (Some(Reverse(a)), Some(Reverse(b))) = (heap.pop(), heap.pop()) {
        let joint = parents.len();
        parents.push(joint);
        parents[a.1] = joint;
        parents[b.1] = joint;
        heap.push(Reverse((a.0 + b.0, joint)));
        if heap.len() == 1 {
            break;
        }
    }
    let mut depths = vec![0u8; parents.len()];
    for node in (0..parents.len().saturating_sub(1)).rev() {
        if node >= counts.len() || counts[node] > 0 {
            depths[node] = depths[parents[node]] + 1;
        }
    }
    depths.truncate(counts.len());
    depths
}

/// Writes bits, lowest first.
struct Bits {
    out: Vec<u8>,
    buffer: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        self.buffer |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push(self.buffer as u8);
            self.buffer >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.out.push(self.buffer as u8);
        }
        self.out
    }
}
