//! Tables of results as Parquet: named columns, one row pushed after the other.
//!
//! Here because everything that knows Parquet is in this crate. What the columns
//! are is for others to say. The same rows give the same bytes.

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a row group: some 10 MiB of a hundred columns while they are gathered.
const GROUP: usize = 16 << 10;
const ZSTD: i32 = 3;

/// What the values of a column are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A whole number from 0 to 2^64-1 (`uint64`).
    Whole,
    /// A number with a fraction (`double`).
    Real,
    /// Text (UTF-8).
    Text,
    /// True or false.
    Flag,
}

impl Kind {
    /// Its name in descriptions.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Whole => "uint64",
            Kind::Real => "double",
            Kind::Text => "string",
            Kind::Flag => "bool",
        }
    }
}

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// There is none.
    Null,
    /// A whole number.
    Whole(u64),
    /// A number with a fraction.
    Real(f64),
    /// Text.
    Text(Arc<str>),
    /// True or false.
    Flag(bool),
}

impl Value {
    /// Whether it may stand in a column of this kind; nothing may stand everywhere.
    pub fn fits(&self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Value::Null, _)
                | (Value::Whole(_), Kind::Whole)
                | (Value::Real(_), Kind::Real)
                | (Value::Text(_), Kind::Text)
                | (Value::Flag(_), Kind::Flag)
        )
    }
}

/// Writes a table to `FILE.partial`, which gets its name when it is complete.
pub struct TableWriter {
    path: PathBuf,
    partial: PathBuf,
    file: SerializedFileWriter<File>,
    columns: Vec<(String, Kind)>,
    gathered: Vec<Vec<Value>>,
    rows: u64,
}

impl std::fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableWriter")
            .field("path", &self.path)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// Why a table could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .path.display())]
pub struct TableError {
    /// The file.
    pub path: PathBuf,
    /// What happened, and what to do.
    pub reason: String,
}

impl TableWriter {
    /// Begins a table with these columns, all nullable; `keys` go to the footer.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(
        path: &Path,
        columns: Vec<(String, Kind)>,
        keys: Vec<(String, String)>,
    ) -> Result<TableWriter, TableError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let fail = |reason: String| TableError { path: partial.clone(), reason };
        let file = File::create(&partial)
            .map_err(|e| fail(format!("cannot be made: {e}; choose another place for the table")))?;
        let keys = keys.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD).expect("a valid level")))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(None)
            .set_created_by(format!("pagewalk {}", env!("CARGO_PKG_VERSION")))
            .set_key_value_metadata(Some(keys))
            .build();
        let file = schema(&columns)
            .and_then(|schema| SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)))
            .map_err(|e| fail(format!("cannot be begun: {e}")))?;
        let gathered = columns.iter().map(|_| Vec::new()).collect();
        Ok(TableWriter { path: path.to_path_buf(), partial, file, columns, gathered, rows: 0 })
    }

    /// Adds a row: a value for each column.
    ///
    /// # Errors
    /// If the disk is full or gone.
    ///
    /// # Panics
    /// If the row is not one of this table.
    pub fn push(&mut self, row: impl IntoIterator<Item = Value>) -> Result<(), TableError> {
        let mut row = row.into_iter();
        for (gathered, (name, kind)) in self.gathered.iter_mut().zip(&self.columns) {
            let value = row.next().unwrap_or_else(|| panic!("no value for {name}"));
            assert!(value.fits(*kind), "{value:?} in {name}, whose values are {}", kind.name());
            gathered.push(value);
        }
        assert!(row.next().is_none(), "more values than columns");
        self.rows += 1;
        if self.rows.is_multiple_of(GROUP as u64) {
            self.close_group().map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    fn close_group(&mut self) -> ParquetResult<()> {
        if self.gathered.first().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for (values, (_, kind)) in self.gathered.iter_mut().zip(&self.columns) {
            match kind {
                Kind::Whole => column::<Int64Type>(&mut group, values, |v| match v {
                    Value::Whole(n) => Some(n.cast_signed()),
                    _ => None,
                })?,
                Kind::Real => column::<DoubleType>(&mut group, values, |v| match v {
                    Value::Real(n) => Some(*n),
                    _ => None,
                })?,
                Kind::Text => column::<ByteArrayType>(&mut group, values, |v| match v {
                    Value::Text(text) => Some(ByteArray::from(text.as_bytes().to_vec())),
                    _ => None,
                })?,
                Kind::Flag => column::<BoolType>(&mut group, values, |v| match v {
                    Value::Flag(flag) => Some(*flag),
                    _ => None,
                })?,
            }
            values.clear();
        }
        group.close()?;
        Ok(())
    }

    /// Writes what is left, and gives the file its name. Returns the number of rows.
    ///
    /// # Errors
    /// If the disk is full or gone; a file that had the name keeps it.
    pub fn finish(mut self) -> Result<u64, TableError> {
        self.close_group().map_err(|e| self.failed(&e))?;
        self.file.finish().map_err(|e| self.failed(&e))?;
        let written = self.file.inner_mut().flush().and_then(|()| self.file.inner().sync_data());
        written
            .and_then(|()| std::fs::rename(&self.partial, &self.path))
            .map_err(|e| self.failed(&e.into()))?;
        Ok(self.rows)
    }

    #[cold]
    fn failed(&self, e: &ParquetError) -> TableError {
        let reason = format!("cannot be written after {} rows: {e}; make room and try again", self.rows);
        TableError { path: self.partial.clone(), reason }
    }
}

fn schema(columns: &[(String, Kind)]) -> ParquetResult<Type> {
    let fields = columns.iter().map(|(name, kind)| {
        let (physical, logical) = match kind {
            Kind::Whole => (Physical::INT64, Some(LogicalType::integer(64, false))),
            Kind::Real => (Physical::DOUBLE, None),
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Flag => (Physical::BOOLEAN, None),
        };
        let field = Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical)
            .build()?;
        Ok(Arc::new(field))
    });
    Type::group_type_builder("result").with_fields(fields.collect::<ParquetResult<_>>()?).build()
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[Value],
    get: impl Fn(&Value) -> Option<T::T>,
) -> ParquetResult<()> {
    let mut levels = Vec::with_capacity(values.len());
    let mut present = Vec::with_capacity(values.len());
    for value in values {
        let value = get(value);
        levels.push(i16::from(value.is_some()));
        present.extend(value);
    }
    let mut column: SerializedColumnWriter<'_> =
        group.next_column()?.expect("as many columns as the schema has");
    column.typed::<T>().write_batch(&present, Some(&levels), None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    #[test]
    fn rows_come_back_and_the_same_rows_are_the_same_bytes() {
        let directory = std::env::temp_dir().join(format!("pagewalk-table-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let columns = [("n", Kind::Whole), ("x", Kind::Real), ("t", Kind::Text), ("f", Kind::Flag)];
        let row = |i: u64| {
            let some = |value: Value| if i % 3 == 1 { Value::Null } else { value };
            [
                some(Value::Whole(u64::MAX - i)),
                some(Value::Real(1.0 / (i + 1) as f64)),
                some(Value::Text(format!("row {}", i % 7).into())),
                some(Value::Flag(i.is_multiple_of(2))),
            ]
        };
        let rows = GROUP as u64 + 5;
        let write = |name: &str| {
            let path = directory.join(name);
            let columns = columns.map(|(name, kind)| (name.to_string(), kind)).to_vec();
            let mut writer = TableWriter::create(&path, columns, vec![("k".into(), "v".into())]).unwrap();
            (0..rows).for_each(|i| writer.push(row(i)).unwrap());
            assert!(!path.exists(), "the name is given at the end");
            assert_eq!(writer.finish().unwrap(), rows);
            path
        };
        let (a, b) = (write("a"), write("b"));
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        let reader = SerializedFileReader::new(File::open(&a).unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        for (i, read) in reader.get_row_iter(None).unwrap().enumerate() {
            let read: Vec<Field> = read.unwrap().get_column_iter().map(|(_, field)| field.clone()).collect();
            let expect = row(i as u64).map(|value| match value {
                Value::Null => Field::Null,
                Value::Whole(n) => Field::ULong(n),
                Value::Real(n) => Field::Double(n),
                Value::Text(t) => Field::Str(t.to_string()),
                Value::Flag(f) => Field::Bool(f),
            });
            assert_eq!(read, expect, "row {i}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_place_that_is_none_is_named() {
        let error = TableWriter::create(Path::new("/nowhere/t.parquet"), Vec::new(), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/t.parquet.partial"), "{error}");
    }
}
