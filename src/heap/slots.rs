//! The bit of a slot: size classes, descriptors, and the arithmetic between a block and its bit.
//!
//! | file         | concern                                           | unsafe |
//! |--------------|---------------------------------------------------|--------|
//! | `class`      | size classes; offset to slot                      | no     |
//! | `descriptor` | what is known about a page, and the bits of slots | no     |
//! | `address`    | from a size to its bin, from a block to its slot  | yes    |
//! | `free_bit`   | marking a slot as free, in machine code           | yes    |

pub(super) mod address;
pub(crate) mod class;
pub(super) mod descriptor;
pub(super) mod free_bit;
