//! What stands on the wire: the 24-byte header and datagrams of several segments.

pub(crate) mod control;
pub(crate) mod datagram;
pub(crate) mod header;

pub use control::{Control, controls};
pub use datagram::Segments;
pub use header::{Command, HEADER_LEN, Header, HeaderError};
