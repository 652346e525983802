//! Numbers by which databases say what went wrong where the SQLSTATE says too little.

use std::collections::BTreeMap;

/// Of each product, the kind of failure and its numbers.
const CODES: [(&str, &str, &[i32]); 28] = [
    (
        "oracle",
        "value",
        &[
            1, 1400, 1401, 1407, 1426, 1438, 1722, 1839, 1840, 1841, 1843, 1847, 1858, 1861, 2290,
            2291, 2292, 12899,
        ],
    ),
    (
        "oracle",
        "for-now",
        &[
            18, 20, 28, 54, 60, 1012, 1013, 1033, 1034, 1089, 1090, 3113, 3114, 4020, 8177, 12170,
            12514, 12516, 12519, 12520, 12528, 12537, 12541, 12543, 17002, 17008, 17410, 30006,
        ],
    ),
    ("oracle", "credentials", &[1005, 1017, 28000, 28001]),
    ("oracle", "table", &[942]),
    ("oracle", "column", &[904]),
    ("oracle", "rights", &[1031, 1045]),
    (
        "microsoft",
        "value",
        &[
            220, 241, 242, 245, 248, 515, 547, 2601, 2627, 2628, 8114, 8115, 8152,
        ],
    ),
    (
        "microsoft",
        "for-now",
        &[
            233, 921, 1204, 1205, 1222, 3906, 3960, 3961, 10053, 10054, 10060, 40197, 40501, 40613,
        ],
    ),
    ("microsoft", "credentials", &[18452, 18456, 18488]),
    ("microsoft", "table", &[208]),
    ("microsoft", "column", &[207]),
    ("microsoft", "rights", &[229, 230, 262]),
    (
        "mysql",
        "value",
        &[
            1048, 1062, 1118, 1153, 1169, 1216, 1217, 1242, 1264, 1265, 1292, 1299, 1364, 1366,
            1367, 1406, 1411, 1416, 1451, 1452, 1525, 1586, 1644, 1690, 3140, 3156, 3819, 3854,
            4025,
        ],
    ),
    (
        "mysql",
        "for-now",
        &[
            1021, 1030, 1037, 1038, 1040, 1041, 1053, 1077, 1114, 1158, 1159, 1160, 1161, 1180,
            1203, 1205, 1206, 1213, 1226, 1290, 1317, 1836, 1927, 1969, 3024, 3572,
        ],
    ),
    (
        "mysql",
        "unreachable",
        &[2002, 2003, 2005, 2006, 2013, 2055],
    ),
    ("mysql", "credentials", &[1045, 1698]),
    ("mysql", "table", &[1146]),
    ("mysql", "column", &[1054]),
    ("mysql", "rights", &[1044, 1142, 1143, 1227]),
    // A file that another process has open, and databases that are being closed.
    (
        "h2",
        "for-now",
        &[50200, 90007, 90008, 90020, 90028, 90067, 90098, 90121],
    ),
    ("h2", "table", &[42102, 42103, 42104]),
    ("h2", "column", &[42122]),
    ("h2", "rights", &[90096]),
    ("hsql", "table", &[-5501]),
    ("hsql", "for-now", &[-451, -458, -1303, -4861]),
    ("hsql", "credentials", &[-4000, -4001]),
    ("sqlite", "for-now", &[5, 6, 7, 10, 13, 15]),
    ("sqlite", "value", &[18, 19, 20]),
];

/// The kind of failure of a product's number.
pub fn kind(product: &str, number: i32) -> Option<&'static str> {
    let mut known = CODES.iter();
    let known = known.find(|(of, _, numbers)| *of == product && numbers.contains(&number));
    known.map(|(_, kind, _)| *kind)
}

/// All of them, by the product and the number behind it.
pub fn by_number() -> BTreeMap<String, &'static str> {
    let all = CODES.iter().flat_map(|(product, kind, numbers)| {
        let numbers = numbers.iter();
        numbers.map(move |number| (format!("{product}{number}"), *kind))
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_one_kind() {
        let all: usize = CODES.iter().map(|(_, _, numbers)| numbers.len()).sum();
        assert_eq!(by_number().len(), all);
        assert_eq!(kind("oracle", 1400), Some("value"));
        assert_eq!(kind("mysql", 1400), None);
    }
}
