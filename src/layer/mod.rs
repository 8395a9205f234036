//! The formats of layers, without I/O and without the database: tar members ([`tar`]), and the
//! compressed streams that they come in ([`codec`]).

pub mod codec;
pub mod tar;
