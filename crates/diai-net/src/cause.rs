//! What to say of the layered errors of libp2p, on one line.

use std::error::Error;

use libp2p::swarm::DialError;

/// Errors have fewer layers than that.
const MAX_CAUSES: usize = 32;

/// What the cause of `error` says that lies deepest and says something: libp2p's own layers say little, or nothing.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let (mut said, mut cause) = ("no reason was given".to_owned(), Some(error));
    for _ in 0..MAX_CAUSES {
        let Some(error) = cause else { break };
        cause = error.source();
        let text = on_one_line(&error.to_string());
        if !text.is_empty() {
            said = text;
        }
    }
    said
}

/// Why a dial failed: each address with the innermost cause.
pub(crate) fn dial_reason(error: &DialError) -> String {
    match error {
        DialError::Transport(failed) if !failed.is_empty() => {
            let one = failed.iter().map(|(addr, error)| format!("{addr}: {}", innermost(error)));
            one.collect::<Vec<_>>().join("; ")
        }
        error => on_one_line(&error.to_string()),
    }
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use libp2p::{core::transport::TransportError, swarm::DialError};

    use super::{dial_reason, innermost};

    #[test]
    fn a_failed_dial_names_each_address_with_its_innermost_cause_on_one_line() {
        let refused = || TransportError::Other(io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused)));
        let addr = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address");
        let error = DialError::Transport(vec![(addr(1), refused()), (addr(2), refused())]);
        assert_eq!(
            dial_reason(&error),
            "/ip4/127.0.0.1/tcp/1: connection refused; /ip4/127.0.0.1/tcp/2: connection refused"
        );
    }

    #[test]
    fn an_error_whose_own_text_is_empty_says_its_cause() {
        let error = TransportError::Other(io::Error::other("the address is in use\nby another"));
        assert_eq!(innermost(&error), "the address is in use by another");
    }
}
