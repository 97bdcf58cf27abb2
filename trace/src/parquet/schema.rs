//! Columns and keys: the names that other tools see.

use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;
use std::sync::Arc;

/// Version of the schema: the reader refuses a larger one.
pub(crate) const VERSION: u32 = 1;

pub(crate) const KEY_VERSION: &str = "pagewalk.schema";
pub(crate) const KEY_SETUP: &str = "pagewalk.setup";
pub(crate) const KEY_EVENTS_BEFORE: &str = "pagewalk.events_before";
pub(crate) const KEY_ACCESSES: &str = "pagewalk.accesses";
pub(crate) const KEY_COMMAND: &str = "pagewalk.command";
pub(crate) const KEY_TOOL: &str = "pagewalk.tool";
pub(crate) const KEY_CRC: &str = "pagewalk.crc32";
pub(crate) const KEY_COMPLETE: &str = "pagewalk.complete";

/// The columns, in their order in the file.
pub(crate) const COLUMNS: [&str; 7] = ["va", "insns", "thread", "kind", "size_log2", "flags", "events"];

const MESSAGE: &str = "message access {
    required int64 va (INTEGER(64,false));
    required int32 insns (INTEGER(16,false));
    required int32 thread (INTEGER(16,false));
    required int32 kind (INTEGER(8,false));
    required int32 size_log2 (INTEGER(8,false));
    required int32 flags (INTEGER(8,false));
    optional binary events (UTF8);
}";

/// The schema of the file.
pub(crate) fn schema() -> TypePtr {
    Arc::new(parse_message_type(MESSAGE).expect("the constant parses"))
}
