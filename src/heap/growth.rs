//! Growth: address space and pages that a heap takes, and what happens when it gets none.
//!
//! | file        | concern                                                       | unsafe |
//! |-------------|---------------------------------------------------------------|--------|
//! | `reserve`   | how much address space a heap takes                           | no     |
//! | `mapped`    | what is mapped of the range, and further parts of it          | yes    |
//! | `grow`      | taking pages, as far as the limit and the kernel let the heap | yes    |
//! | `refusal`   | what is refused: an allocation, or by the kernel a range      | yes    |
//! | `collector` | the VM's garbage collector, for when memory is short          | yes    |

pub(super) mod collector;
mod grow;
pub(super) mod mapped;
pub(super) mod refusal;
pub(super) mod reserve;
