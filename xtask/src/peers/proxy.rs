//! A TCP proxy that delays and paces what passes, where the kernel has no netem: it shows what round trips and windows of the
//! programs cost, not what TCP itself makes of a long link.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

use crate::Outcome;

const PIECE_BYTES: usize = 16 << 10;
/// More than a link holds in flight would be a buffer without end.
const MAX_PIECES: usize = 1024;

/// Lets what connects to the returned port through to `to`; each connection has the whole rate to itself.
pub(super) fn lay(to: String, delay: Duration, bytes_per_s: f64) -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(other) = TcpStream::connect(&to) else { continue };
            // A stream that ends is its owners' affair.
            let _ = carry(stream, other, delay, bytes_per_s);
        }
    });
    Ok(port)
}

fn carry(one: TcpStream, other: TcpStream, delay: Duration, bytes_per_s: f64) -> Outcome {
    for stream in [&one, &other] {
        stream.set_nodelay(true)?;
    }
    for (from, to) in [(one.try_clone()?, other.try_clone()?), (other, one)] {
        let (send, receive) = sync_channel::<(Instant, Vec<u8>)>(MAX_PIECES);
        thread::spawn(move || {
            let mut from = from;
            let mut free = Instant::now();
            loop {
                let mut piece = vec![0; PIECE_BYTES];
                let Ok(bytes @ 1..) = from.read(&mut piece) else { return };
                piece.truncate(bytes);
                free = free.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / bytes_per_s);
                // No more than the link carries is taken from its sender.
                thread::sleep(free.saturating_duration_since(Instant::now()));
                if send.send((free + delay, piece)).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || {
            let mut to = to;
            while let Ok((due, piece)) = receive.recv() {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if to.write_all(&piece).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
