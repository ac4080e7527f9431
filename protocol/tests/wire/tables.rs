use crate::generate::{octets, table};
use leveret_protocol::{
    amq::FieldTable,
    table::Table,
    value::{as_integer, decode_table, encode_table, show, type_word},
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_raw_table_has_the_entries_that_amq_protocol_wrote(table in table()) {
        let bytes = encode_table(&table);
        let raw = Table::parse(&bytes[4..]).expect("well-formed");
        let entries: Vec<_> = raw.iter().map(|(key, value)| (key.to_vec(), value.to_amq())).collect();
        let expected: Vec<_> =
            table.inner().iter().map(|(key, value)| (key.as_str().as_bytes().to_vec(), value.clone())).collect();
        prop_assert_eq!(entries, expected);
        for (key, value) in table.inner() {
            let found = raw.get(key.as_str()).expect("present");
            prop_assert_eq!(raw.get_last(key.as_str()), Some(found));
            prop_assert_eq!(found.type_word(), type_word(value));
            prop_assert_eq!(found.as_integer(), as_integer(value));
            prop_assert!(!show(value).is_empty() || type_word(value) == "longstr" || type_word(value) == "binary");
        }
    }

    #[test]
    fn a_table_kept_on_disk_comes_back(table in table()) {
        let bytes = encode_table(&table);
        prop_assert_eq!(decode_table(&bytes), Ok(table));
        prop_assert!(decode_table(&bytes[..bytes.len() - 1]).is_err());
        prop_assert!(decode_table(&[&bytes[..], b"!"].concat()).is_err());
    }

    /// One octet changed anywhere: either refused, or everything in it can be read.
    #[test]
    fn what_is_accepted_can_be_read_to_the_end(table in table(), place: prop::sample::Index, octet: u8) {
        let mut bytes = encode_table(&table).split_off(4);
        if !bytes.is_empty() {
            let place = place.index(bytes.len());
            bytes[place] = octet;
        }
        if let Ok(table) = Table::parse(&bytes) {
            read_to_the_end(&table.to_amq(), table);
        }
    }

    #[test]
    fn noise_is_refused_or_can_be_read_to_the_end(bytes in octets(60)) {
        if let Ok(table) = Table::parse(&bytes) {
            read_to_the_end(&table.to_amq(), table);
        }
    }
}

fn read_to_the_end(copy: &FieldTable, table: Table<'_>) {
    assert!(copy.inner().len() <= table.iter().count());
    let entries = encode_table(copy);
    if let Ok(again) = decode_table(&entries) {
        // NaN is not equal to itself; the octets are.
        assert_eq!(encode_table(&again), entries);
    } else {
        panic!("what was written cannot be read");
    }
}
