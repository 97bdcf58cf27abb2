//! What a mechanism says of itself, so that whoever composes systems needs to know no more than its
//! name: the list in [`crate::Named`].
//!
//! Everything is resolved when the crate is compiled: a walk through the tables of a mechanism is a copy of the walk's
//! code for that mechanism, chosen once for a stretch of accesses ([`Walker`]).

use alloc::boxed::Box;
use paging::{
    Flags, FrameSource, FromBuddy, NodeId, OneCopy, PhysSpace, Space, TableMemory, TableOps, Walked,
};

/// A mechanism that can stand on each side of a system: in the kernel that processes run on, and in the
/// host under a VM. It takes the place of one or more baselines; the others stay.
pub trait Mechanism {
    /// What it is, in a line.
    const SAYS: &'static str;
    /// What it needs, and of whom.
    const NEEDS: &'static str;
    /// Systems that show it, and what each is.
    const SYSTEMS: &'static [(&'static str, &'static str)];
    /// What it cannot be with.
    const REFUSES: &'static [Refusal];

    /// Its tables as a walker finds its way in them.
    type Tables<'a, M: TableMemory>: Walked<Space = M::Space>;

    /// The tables in `mem`, for a walker whose root register holds the software bits `root`.
    fn walked<M: TableMemory>(mem: &M, root: Flags) -> Self::Tables<'_, M>;

    /// How the table pages of an address space are kept; `fixed`: all on that node.
    fn tables<I: Space, M: TableMemory>(fixed: Option<NodeId>) -> Box<dyn TableOps<I, M>> {
        Box::new(OneCopy { fixed })
    }

    /// Which frame answers a fault.
    fn frames<S: PhysSpace>() -> Box<dyn FrameSource<S>> {
        Box::new(FromBuddy)
    }
}

/// A side of a system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The kernel that the processes run on: the guest's in a VM.
    Kernel,
    /// The host under a VM.
    Host,
}

/// Something that a mechanism cannot be with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Only on this side; on both if none.
    pub on: Option<Side>,
    /// A way of translation or a feature, in the words that name systems.
    pub with: &'static str,
    /// Why, in a sentence.
    pub why: &'static str,
}

/// What a mechanism of the list says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    /// Its name in the kernel that the processes run on.
    pub name: &'static str,
    /// Its name in the host under a VM.
    pub host_name: &'static str,
    /// [`Mechanism::SAYS`].
    pub says: &'static str,
    /// [`Mechanism::NEEDS`].
    pub needs: &'static str,
    /// [`Mechanism::SYSTEMS`].
    pub systems: &'static [(&'static str, &'static str)],
    /// [`Mechanism::REFUSES`].
    pub refuses: &'static [Refusal],
}

/// What is done with tables, whatever their shape; compiled for each.
pub trait Walker<S: PhysSpace> {
    /// What comes of it.
    type Output;
    /// Does it.
    fn on<W: Walked<Space = S>>(self, tables: &W) -> Self::Output;
}

/// Makes the list of [`Mechanism`]s that systems name.
macro_rules! mechanisms {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $mechanism:ty,)*) => {
        /// A mechanism of the list: `+NAME` in the kernel that processes run on, `+host-NAME` in the host under a VM.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Named {
            $($(#[$doc])* $variant,)*
        }

        impl Named {
            /// All of them.
            pub const ALL: &'static [Named] = &[$(Named::$variant),*];

            /// What it says of itself.
            pub const fn about(self) -> $crate::mechanism::About {
                match self {
                    $(Named::$variant => $crate::mechanism::About {
                        name: $name,
                        host_name: concat!("host-", $name),
                        says: <$mechanism as $crate::mechanism::Mechanism>::SAYS,
                        needs: <$mechanism as $crate::mechanism::Mechanism>::NEEDS,
                        systems: <$mechanism as $crate::mechanism::Mechanism>::SYSTEMS,
                        refuses: <$mechanism as $crate::mechanism::Mechanism>::REFUSES,
                    },)*
                }
            }

            /// See [`mechanism::Mechanism::tables`].
            pub fn tables<I: paging::Space, M: paging::TableMemory>(
                self,
                fixed: Option<paging::NodeId>,
            ) -> alloc::boxed::Box<dyn paging::TableOps<I, M>> {
                match self {
                    $(Named::$variant => <$mechanism as $crate::mechanism::Mechanism>::tables(fixed),)*
                }
            }

            /// See [`mechanism::Mechanism::frames`].
            pub fn frames<S: paging::PhysSpace>(self) -> alloc::boxed::Box<dyn paging::FrameSource<S>> {
                match self {
                    $(Named::$variant => <$mechanism as $crate::mechanism::Mechanism>::frames(),)*
                }
            }

            /// Lets `walker` at the tables in `mem`, as a walker with the software bits `root` beside
            /// its root finds its way in them.
            pub fn walked<M: paging::TableMemory, W: $crate::mechanism::Walker<M::Space>>(
                self,
                mem: &M,
                root: paging::Flags,
                walker: W,
            ) -> W::Output {
                match self {
                    $(Named::$variant => {
                        walker.on(&<$mechanism as $crate::mechanism::Mechanism>::walked(mem, root))
                    })*
                }
            }
        }
    };
}
pub(crate) use mechanisms;
