//! Guests, as text.

/// Ends at once.
pub const NOTHING: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Never ends.
pub const LOOP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

/// Grows its memory until it may not, and then for ever.
pub const EATER: &str = r#"(module (memory (export "memory") 1)
  (func (export "_start") (loop $l (drop (memory.grow (i32.const 64))) (br $l))))"#;

/// Grows a table until it may not.
pub const TABLE_EATER: &str = r#"(module (memory (export "memory") 1) (table $t 1 funcref)
  (func (export "_start") (loop $l (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $l))))"#;

/// Wants more memory than any limit at its start.
pub const BORN_LARGE: &str = r#"(module (memory (export "memory") 20000) (func (export "_start")))"#;

pub const TRAP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

/// Writes for ever, to standard output (descriptor 1).
pub const WRITER: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\00\80\00\00")
  (func (export "_start") (loop $l (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))))"#;

/// Makes a file under /out and lets it grow for ever.
pub const FILE_WRITER: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\00\80\00\00")
  (data (i32.const 64) "big")
  (func (export "_start")
    (if (call $open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 3) (i32.const 1) (i64.const -1)
        (i64.const -1) (i32.const 0) (i32.const 80)) (then unreachable))
    (loop $l (drop (call $write (i32.load (i32.const 80)) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))))"#;

/// Makes folder after folder, each within the one before: many nodes, no bytes.
pub const FOLDER_MAKER: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $n i32)
    (loop $l
      (i32.store (i32.const 0) (i32.add (i32.const 0x61616161)
        (i32.add (i32.and (local.get $n) (i32.const 15))
          (i32.add (i32.shl (i32.and (local.get $n) (i32.const 0xf0)) (i32.const 4))
            (i32.add (i32.shl (i32.and (local.get $n) (i32.const 0xf00)) (i32.const 8))
              (i32.shl (i32.and (local.get $n) (i32.const 0xf000)) (i32.const 12)))))))
      (drop (call $make (i32.const 4) (i32.const 0) (i32.const 4)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $l))))"#;

/// Says something on standard error and exits with 3.
pub const EXIT_3: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\05\00\00\00")
  (data (i32.const 16) "sorry")
  (func (export "_start")
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 3))))"#;

/// Copies standard input to standard output, through 4 KiB at a time.
pub const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (loop $l
      (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8)) (then
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
        (br $l))))))"#;

/// Writes its arguments block, two looks at the clock and 16 random bytes to standard output.
pub const ORACLE: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $time (i32.const 0) (i64.const 1) (i32.const 1024)))
    (drop (call $time (i32.const 0) (i64.const 1) (i32.const 1032)))
    (drop (call $random (i32.const 1040) (i32.const 16)))
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $args (i32.const 64) (i32.const 1056)))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.add (i32.const 32) (i32.load (i32.const 20))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Opens "a" in /in, copies it to "copy" in /out, and tries to write to "a".
pub const FILES: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "a") (data (i32.const 65) "d/copy") (data (i32.const 80) "../in/a")
  (func $no (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
  (func (export "_start")
    ;; a file of /in cannot be opened for writing: 69 is ROFS
    (call $no (i32.const 69) (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 0)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 32)))
    ;; nor can /out be left: 76 is NOTCAPABLE
    (call $no (i32.const 76) (call $open (i32.const 4) (i32.const 0) (i32.const 80) (i32.const 7) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
    (call $no (i32.const 0) (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
    (call $no (i32.const 0) (call $make (i32.const 4) (i32.const 65) (i32.const 1)))
    (call $no (i32.const 0) (call $open (i32.const 4) (i32.const 0) (i32.const 65) (i32.const 6) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 36)))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
    (call $no (i32.const 0) (call $read (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (call $no (i32.const 0) (call $write (i32.load (i32.const 36)) (i32.const 0) (i32.const 1) (i32.const 12)))))"#;

/// Hands host calls pointers that lie outside of its memory; 21 is FAULT.
pub const WILD_POINTERS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\ff\ff\ff\ff\ff\ff\ff\ff")
  (func $no (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
  (func (export "_start")
    (call $no (i32.const 21) (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $no (i32.const 21) (call $write (i32.const 1) (i32.const -4) (i32.const 2) (i32.const 8)))
    (call $no (i32.const 21) (call $random (i32.const 65530) (i32.const 16)))
    (call $no (i32.const 21) (call $list (i32.const 3) (i32.const 65530) (i32.const 4096) (i64.const 0) (i32.const 8)))
    (call $no (i32.const 21) (call $poll (i32.const -8) (i32.const 0) (i32.const 9) (i32.const 8)))
    (call $no (i32.const 21) (call $args (i32.const -1) (i32.const -1)))))"#;

/// Moves 60 KiB to nowhere again and again: host calls cost fuel by the bytes they move.
pub const STDERR_FLOOD: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\00\f0\00\00")
  (func (export "_start") (loop $l (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) (br $l))))"#;

/// Sleeps for an hour.
pub const SLEEPER: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (if (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable))
    (if (i32.ne (i32.load (i32.const 128)) (i32.const 1)) (then unreachable))))"#;

/// Imports what no guest is given.
pub const FOREIGN: &str = r#"(module (import "env" "open_the_door" (func)) (memory (export "memory") 1)
  (func (export "_start")))"#;

/// No command.
pub const LIBRARY: &str = r#"(module (memory (export "memory") 1) (func (export "add")))"#;

/// Writes two bytes: at once without an argument, after ten million rounds with one.
pub const MOODY: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\08\00\00\00\02\00\00\00ok")
  (func (export "_start") (local $left i32)
    (drop (call $sizes (i32.const 32) (i32.const 36)))
    (if (i32.gt_u (i32.load (i32.const 32)) (i32.const 1)) (then
      (local.set $left (i32.const 10000000))
      (loop $l
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $l (local.get $left)))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;
