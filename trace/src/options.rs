//! What a trace file can be, and what a user may say about one.

use std::fmt;
use std::str::FromStr;

macro_rules! names {
    ($(#[$doc:meta])* $ty:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
        pub enum $ty {
            $($(#[$vdoc])* #[serde(rename = $name)] $variant,)*
        }
        impl $ty {
            /// All of them.
            pub const ALL: &'static [$ty] = &[$($ty::$variant,)*];
            /// The name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $($ty::$variant => $name,)* }
            }
        }
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
        impl FromStr for $ty {
            type Err = String;
            fn from_str(s: &str) -> Result<$ty, String> {
                $ty::ALL.iter().copied().find(|v| v.name() == s).ok_or_else(|| {
                    let names: Vec<_> = $ty::ALL.iter().map(|v| v.name()).collect();
                    format!("'{s}' is none of: {}", names.join(", "))
                })
            }
        }
    };
}

names! {
    /// A trace format.
    Format {
        /// Pagewalk's own: Parquet with the schema of [`crate::parquet`].
        Parquet = "parquet",
        /// 16-byte records of a QEMU plugin: `u64 va, u32 vcpu, u8 store, u8 log2 size, u16 flags`.
        Qemu16 = "qemu16",
    }
}

names! {
    /// How a file is compressed; always recognised by content.
    Compression {
        /// Not at all.
        None = "none",
        /// gzip.
        Gzip = "gzip",
        /// xz.
        Xz = "xz",
        /// Zstandard.
        Zstd = "zstd",
    }
}

/// What a user says about a trace before it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The format, where the content does not tell.
    pub format: Option<Format>,
    /// Deliver instruction fetches, as the format holds them. Without them
    /// instructions still count in [`Access::insns`](machine::input::Access::insns).
    pub fetches: bool,
    /// Read what is whole of a Parquet file that lacks its end, as is done
    /// without being asked for one whose name ends in `.partial`.
    pub recover: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { format: None, fetches: true, recover: false }
    }
}

impl OpenOptions {
    /// The defaults, with this format.
    pub fn with_format(format: Format) -> OpenOptions {
        OpenOptions { format: Some(format), ..OpenOptions::default() }
    }
}
