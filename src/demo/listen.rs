//! The listening socket that all workers share.

use std::io;
use std::net::{SocketAddr, TcpListener};

/// Binds the socket before the first fork, so that every worker inherits it and
/// connections that wait in its backlog survive the death of any worker.
///
/// # Errors
/// A text of one line that says what to do about it.
pub fn bind(host: &str, port: u16) -> Result<TcpListener, String> {
    let listener = TcpListener::bind((host, port)).map_err(|e| explain(&e, host, port))?;
    // A worker that loses the race for a connection must not sleep in accept().
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    Ok(listener)
}

/// The address to open in a browser on this machine.
pub fn url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("http://localhost:{}/", address.port())
    } else {
        format!("http://{address}/")
    }
}

fn explain(error: &io::Error, host: &str, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} on {host} is in use; choose another with --port, or --port 0 for any free one"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("may not listen on port {port}; choose one above 1023 with --port")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{host} is no address of this machine; choose another with --host")
        }
        _ => format!("cannot listen on {host} port {port}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_told_in_one_line_that_names_the_way_out() {
        let first = bind("127.0.0.1", 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let text = bind("127.0.0.1", port).unwrap_err();
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.contains(&port.to_string()) && text.contains("--port"),
            "{text}"
        );
    }

    #[test]
    fn a_wildcard_address_is_shown_as_one_that_a_browser_can_open() {
        assert_eq!(url("0.0.0.0:80".parse().unwrap()), "http://localhost:80/");
        assert_eq!(url("[::]:81".parse().unwrap()), "http://localhost:81/");
        assert_eq!(url("[::1]:82".parse().unwrap()), "http://[::1]:82/");
    }
}
