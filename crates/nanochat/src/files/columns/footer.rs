//! Reads the footer of a parquet file, which describes its structure. Limits are checked before the parquet crate
//! allocates memory for it: the depth of the schema, the share of the file that its columns cover, the number of rows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use parquet::errors::Result;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::no;
use super::thrift::{I32, LIST, STRUCT, Thrift};

/// The maximum bytes of a footer; a thousand row groups of a hundred columns take 10 MB.
const MAX_FOOTER: u64 = 16 << 20;
const MAX_COLUMNS: u64 = 10_000;
const MAX_NESTING: usize = 64;
/// The rows allowed to any file, even one of only nulls or one constant, and the additional rows for each of its bytes;
/// they bound the time.
const ROWS: u64 = 1 << 24;
const ROWS_A_BYTE: u64 = 1 << 10;

pub fn read(mut file: &File) -> Result<ParquetMetaData> {
    let len = file.metadata()?.len();
    let Some(end) = len.checked_sub(8) else { return Err(no("it is too short")) };
    let mut tail = [0; 8];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let size = u64::from(u32::from_le_bytes(tail[..4].try_into().expect("four bytes")));
    if &tail[4..] != b"PAR1" || size > end {
        return Err(no("it does not end as parquet files do; was it fetched whole?"));
    }
    if size > MAX_FOOTER {
        return Err(no(format!("its footer of {} MB describes more than a file of text", size >> 20)));
    }
    let mut footer = vec![0; size as usize];
    file.seek(SeekFrom::Start(end - size))?;
    file.read_exact(&mut footer)?;
    check_schemas(&footer)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer)?;
    check_size(&metadata, end - size)?;
    Ok(metadata)
}

/// Checks the number of rows and that the columns fit into the `before` bytes before the footer; row groups that share
/// bytes would be read again and again.
fn check_size(metadata: &ParquetMetaData, before: u64) -> Result<()> {
    let (mut rows, mut bytes) = (0u64, 0u64);
    for group in metadata.row_groups() {
        rows = rows.saturating_add(group.num_rows().max(0) as u64);
        for column in group.columns() {
            bytes = bytes.saturating_add(column.compressed_size().max(0) as u64);
            if column.file_path().is_some() {
                return Err(no("its columns lie in other files"));
            }
        }
    }
    if bytes > before {
        return Err(no("it is shorter than its columns"));
    }
    if rows > ROWS.saturating_add(ROWS_A_BYTE.saturating_mul(before)) {
        return Err(no(format!("{before} bytes of pages do not hold {rows} rows")));
    }
    Ok(())
}

fn check_schemas(footer: &[u8]) -> Result<()> {
    let mut schema = Ok(());
    let whole = Thrift(footer).fields(|id, kind, thrift| {
        if id != 2 {
            return Some(false);
        }
        if schema.is_ok() {
            schema = check_schema(kind, thrift)?;
        }
        Some(true)
    });
    schema?;
    whole.ok_or_else(|| no("its footer is damaged"))
}

/// Checks the schema's size and depth. It is one list in which the children of each group follow it, and the crate
/// parses it by recursion.
fn check_schema(kind: u8, thrift: &mut Thrift) -> Option<Result<()>> {
    let (_, n) = thrift.list().filter(|(item, _)| kind == LIST && *item == STRUCT)?;
    if n > MAX_COLUMNS {
        return Some(Err(no(format!("it has {n} columns"))));
    }
    let mut open: Vec<i64> = Vec::new(); // the children still to come of each enclosing group
    for _ in 0..n {
        let mut children = 0;
        thrift.fields(|id, kind, thrift| {
            if id != 5 {
                return Some(false);
            }
            children = Some(()).filter(|()| kind == I32).and_then(|()| thrift.int())?;
            Some(true)
        })?;
        if children > MAX_COLUMNS as i64 || open.len() > MAX_NESTING {
            return Some(Err(no("its columns are nested deeper than any text needs")));
        }
        if let Some(around) = open.last_mut() {
            *around -= 1;
        }
        if children > 0 {
            open.push(children);
        }
        while open.last().is_some_and(|&left| left <= 0) {
            open.pop();
        }
    }
    Some(Ok(()))
}
