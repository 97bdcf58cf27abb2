//! What a trace file can be, and what a user may say about one.

use crate::meter::Meter;
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
        /// `DynamoRIO`'s post-processed traces: a file, a zip of chunks, or a directory of them.
        DrMemtrace = "drmemtrace",
        /// `ChampSim`'s 64-byte instruction records.
        ChampSim = "champsim",
        /// `ChampSim`'s 96-byte records of the `CloudSuite` traces.
        CloudSuite = "cloudsuite",
        /// gem5's protobuf packets.
        Gem5 = "gem5",
        /// Valgrind lackey's `--trace-mem=yes` text.
        Lackey = "lackey",
        /// Dinero's `din` (`2 430d70`) and extended (`r 430d70 4`) text.
        Dinero = "dinero",
        /// Ramulator's text: CPU traces (`3 20734016`), DRAM traces (`0x1234 R`), loads and stores (`LD 0x1234`).
        Ramulator = "ramulator",
        /// `perf script` text: samples with addresses, or user page faults.
        PerfScript = "perf-script",
        /// `perf mem report -D` text.
        PerfMem = "perf-mem",
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
        /// bzip2.
        Bzip2 = "bzip2",
        /// LZ4 frames.
        Lz4 = "lz4",
        /// Snappy frames.
        Snappy = "snappy",
        /// The members of a zip archive.
        Zip = "zip",
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
    /// The fields that `perf script -F` was given, where the text is not in perf's default form.
    pub perf_fields: Option<String>,
    /// Told how far a file or directory has been read.
    pub meter: Option<Meter>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { format: None, fetches: true, recover: false, perf_fields: None, meter: None }
    }
}

impl OpenOptions {
    /// The defaults, with this format.
    pub fn with_format(format: Format) -> OpenOptions {
        OpenOptions { format: Some(format), ..OpenOptions::default() }
    }
}
