//! What of a program makes compiling it dear, looked at before it is compiled: the rest of the format is the compiler's to
//! check.

/// Functions of a program.
const MAX_FUNCTIONS: u32 = 50_000;
/// Bytes of one function. Compilers make no such functions, but for interpreters of a hundred KiB or two; the time to
/// compile one grows faster than its length.
const MAX_FUNCTION_BYTES: usize = 1 << 20;
/// Local variables of all functions together. A few bytes declare 50,000, and the compiler looks at each.
const MAX_LOCALS: u64 = 2_000_000;
const HEADER_BYTES: usize = 8;
const CODE_SECTION: u8 = 10;

/// What of the module `bytes` is over a bound. What is no module is over none.
pub(super) fn over_bounds(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes.get(HEADER_BYTES..)?;
    loop {
        let (id, after) = rest.split_first()?;
        rest = after;
        let section = chunk(&mut rest)?;
        if *id == CODE_SECTION {
            return over_in_code(section);
        }
    }
}

fn over_in_code(mut code: &[u8]) -> Option<String> {
    let functions = number(&mut code)?;
    if functions > MAX_FUNCTIONS {
        return Some(format!("it has {functions} functions, at most {MAX_FUNCTIONS} are allowed"));
    }
    let mut locals = 0;
    for _ in 0..functions {
        let mut body = chunk(&mut code)?;
        let bytes = body.len();
        if bytes > MAX_FUNCTION_BYTES {
            return Some(format!("it has a function of {bytes} bytes, at most {MAX_FUNCTION_BYTES} are allowed"));
        }
        for _ in 0..number(&mut body)? {
            locals += u64::from(number(&mut body)?);
            skip_type(&mut body)?;
        }
        if locals > MAX_LOCALS {
            return Some(format!("it has {locals} local variables or more, at most {MAX_LOCALS} are allowed"));
        }
    }
    None
}

/// Skips a value type: one byte, or a reference with the type of its heap behind it.
fn skip_type(rest: &mut &[u8]) -> Option<()> {
    let (kind, after) = rest.split_first()?;
    *rest = after;
    if matches!(kind, 0x63 | 0x64) {
        // Signed, and so not a `number`.
        let length = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
        *rest = rest.get(length..)?;
    }
    Some(())
}

/// Takes bytes that follow their length.
fn chunk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (chunk, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(chunk)
}

/// Takes an unsigned LEB128 number of at most 32 bits.
fn number(rest: &mut &[u8]) -> Option<u32> {
    let mut value = 0u64;
    for place in 0..5 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_functions(count: usize, operations: usize) -> Vec<u8> {
        let body = "nop ".repeat(operations);
        wat::parse_str(format!("(module {})", format!("(func {body})").repeat(count))).unwrap_or_default()
    }

    #[test]
    fn one_endless_function_or_functions_without_end_are_over_the_bounds() {
        assert_eq!(over_bounds(&with_functions(1, MAX_FUNCTION_BYTES - 10)), None);
        let long = over_bounds(&with_functions(1, MAX_FUNCTION_BYTES));
        assert!(long.is_some_and(|reason| reason.contains("a function of")));
        assert_eq!(over_bounds(&with_functions(1_000, 10)), None);
        let locals = |types: &str, functions: usize| {
            let function = format!("(func {})", format!("(local {types})").repeat(1_000));
            over_bounds(&wat::parse_str(format!("(module {})", function.repeat(functions))).unwrap_or_default())
        };
        assert_eq!(locals("i32 i64 i64", 600), None);
        for types in ["i32 i64 i64", "i32 (ref null extern) (ref null 0)"] {
            let many = locals(types, 700);
            assert!(many.is_some_and(|reason| reason.contains("local variables")), "{types}");
        }
        let many = over_bounds(&with_functions(MAX_FUNCTIONS as usize + 1, 0));
        assert!(many.is_some_and(|reason| reason.contains("50001 functions")));
    }

    #[test]
    fn real_programs_are_within_the_bounds() {
        assert_eq!(over_bounds(include_bytes!("../../tests/guests/std_guest.wasm")), None);
    }

    proptest! {
        #[test]
        fn whatever_is_no_module_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            over_bounds(&bytes);
            let mut code = with_functions(3, 3);
            code.truncate(cut);
            code.extend(bytes);
            over_bounds(&code);
        }
    }
}
