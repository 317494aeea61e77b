//! Answers in free text as a closed set of classes, grouped by what they mean.
//!
//! The classes of a sample are the meanings of all its beams and sampled answers, and a last class "other" for
//! the mass that none of them holds. Invariant: every distribution over the classes adds up to 1, and the order
//! of the answers given does not change the classes. Deliberately absent: synonyms, and the stricter normal
//! form that labels are voted on by.

use std::collections::BTreeSet;

use super::SelectError;

/// The classes of one sample: its meanings in alphabetical order, then "other".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    meanings: Vec<String>,
}

impl Classes {
    /// The classes that `texts` fall into: all answers of all views, paraphrases and chains of a sample.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let meanings: BTreeSet<String> = texts.into_iter().map(meaning).collect();
        Self { meanings: meanings.into_iter().collect() }
    }

    /// The meanings, without "other".
    pub fn meanings(&self) -> &[String] {
        &self.meanings
    }

    /// The number of classes `C`, "other" included.
    pub fn count(&self) -> usize {
        self.meanings.len() + 1
    }

    /// The class of `text`; "other" when nothing like it is among the classes.
    pub fn class(&self, text: &str) -> usize {
        self.meanings.binary_search(&meaning(text)).unwrap_or(self.meanings.len())
    }

    /// The distribution `[C]` of one set of answers, each a text with the probability of that token sequence.
    ///
    /// A token sequence must be given once, however often it was sampled; for samples without known probability
    /// give `1 / n` for each of `n`. Different sequences with the same meaning add up. Missing mass goes to
    /// "other".
    pub fn distribution(&self, answers: &[(&str, f32)]) -> Result<Vec<f32>, SelectError> {
        let mut mass = vec![0f64; self.count()];
        for (index, &(text, probability)) in answers.iter().enumerate() {
            if !probability.is_finite() {
                return Err(SelectError::NonFinite { column: "answers", index, value: probability });
            }
            if probability < 0.0 {
                return Err(SelectError::Config(format!("answer {index} has probability {probability}")));
            }
            mass[self.class(text)] += f64::from(probability);
        }
        let sum: f64 = mass.iter().sum();
        // Rounding may pass 1 by a little; more means that a sequence was counted twice.
        if sum > 1.01 {
            let message =
                format!("the answers' probabilities add up to {sum}: give each token sequence once");
            return Err(SelectError::Config(message));
        }
        mass[self.meanings.len()] += (1.0 - sum).max(0.0);
        Ok(mass.iter().map(|p| (p / sum.max(1.0)) as f32).collect())
    }
}

/// The normal form by which answers are taken to mean the same.
///
/// Lower case, single spaces, no articles, no punctuation but what is inside a number (`3.5`, `12:30`, `1/2`,
/// `-4`), no thousands separators, and numbers below a million in digits ("twenty-one" and "21" are one
/// answer). An article that ends the text stays: in "option a" it is the answer.
pub fn meaning(text: &str) -> String {
    let text = bare(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let last = words.len().saturating_sub(1);
    let kept = words.iter().enumerate().filter(|&(i, word)| i == last || !["a", "an", "the"].contains(word));
    digits(&kept.map(|(_, &word)| word).collect::<Vec<_>>())
}

/// Lower case with punctuation turned into spaces, except inside numbers.
fn bare(text: &str) -> String {
    let chars: Vec<char> =
        text.chars().flat_map(char::to_lowercase).map(|c| if c == '−' { '-' } else { c }).collect();
    let digit = |i: usize| chars.get(i).is_some_and(char::is_ascii_digit);
    let mut out = String::with_capacity(text.len());
    for (i, &c) in chars.iter().enumerate() {
        let inside = i > 0 && digit(i - 1) && digit(i + 1);
        match c {
            '.' | ':' | '/' if inside => out.push(c),
            '-' if digit(i + 1) && (i == 0 || chars[i - 1].is_whitespace()) => out.push(c),
            ',' if inside && (1..=3).all(|k| digit(i + k)) && !digit(i + 4) => {}
            '\'' | '’' => {}
            '%' => out.push_str(" percent "),
            c if is_punctuation(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Marks of Latin and East Asian scripts; combining signs and letters of any script are kept.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c, '«' | '»' | '¿' | '¡' | '·' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205E}')
        || matches!(c, '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{FF01}'..='\u{FF0F}')
        || matches!(c, '\u{FF1A}'..='\u{FF20}')
}

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// Joins `words`, with every run of number words that reads as one number in digits.
fn digits(words: &[&str]) -> String {
    let mut out: Vec<String> = Vec::with_capacity(words.len());
    let mut i = 0;
    while i < words.len() {
        match number(&words[i..]) {
            Some((value, used)) => {
                out.push(value.to_string());
                i += used;
            }
            None => {
                out.push(words[i].to_owned());
                i += 1;
            }
        }
    }
    out.join(" ")
}

/// The number that `words` begin with and how many words it takes.
fn number(words: &[&str]) -> Option<(u32, usize)> {
    let (mut value, mut used) = below_thousand(words)?;
    if words.get(used) == Some(&"thousand") && value > 0 {
        (value, used) = (value * 1000, used + 1);
        let joint = usize::from(words.get(used) == Some(&"and"));
        if let Some((rest, more)) = below_thousand(&words[used + joint..]) {
            (value, used) = (value + rest, used + joint + more);
        }
    }
    Some((value, used))
}

fn below_thousand(words: &[&str]) -> Option<(u32, usize)> {
    // "hundred cats" is what is left of "a hundred cats".
    let (head, used) = match words.first()? {
        &"hundred" | &"thousand" => (1, 0),
        _ => below_hundred(words)?,
    };
    if words.get(used) != Some(&"hundred") || !(1..10).contains(&head) {
        return Some((head, used)).filter(|_| used > 0 || words.first() == Some(&"thousand"));
    }
    let used = used + 1;
    let joint = usize::from(words.get(used) == Some(&"and"));
    match below_hundred(&words[used + joint..]) {
        Some((rest, more)) => Some((head * 100 + rest, used + joint + more)),
        None => Some((head * 100, used)),
    }
}

fn below_hundred(words: &[&str]) -> Option<(u32, usize)> {
    let place = |list: &[&str], word: &str| list.iter().position(|w| *w == word).map(|i| i as u32);
    let first = words.first()?;
    if let Some(value) = place(&SMALL, first) {
        return Some((value, 1));
    }
    let tens = (place(&TENS, first)? + 2) * 10;
    let unit = words.get(1).and_then(|word| place(&SMALL[..10], word)).filter(|&unit| unit > 0);
    Some(unit.map_or((tens, 1), |unit| (tens + unit, 2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_that_mean_the_same_have_one_form() {
        for (text, expected) in [
            ("  The red Ball. ", "red ball"),
            ("Don't know!", "dont know"),
            ("Twenty-one cats", "21 cats"),
            ("a hundred and five", "105"),
            ("two thousand three hundred", "2300"),
            ("1,250", "1250"),
            ("1,2", "1 2"),
            ("3.5", "3.5"),
            ("It is 12:30.", "it is 12:30"),
            ("−4", "-4"),
            ("50%", "50 percent"),
            ("A.", "a"),
            ("option A", "option a"),
            ("two three", "2 3"),
            ("«Café»", "café"),
            ("हिन्दी", "हिन्दी"),
            ("", ""),
        ] {
            assert_eq!(meaning(text), expected, "{text}");
        }
    }

    #[test]
    fn classes_are_meanings_and_other() {
        let classes = Classes::of(["Two", "2", "the three", "2."]);
        assert_eq!((classes.meanings(), classes.count()), (&["2".to_owned(), "3".to_owned()][..], 3));
        assert_eq!(classes, Classes::of(["three", "two"]));
        let p = classes.distribution(&[("two", 0.4), ("2", 0.2), ("3", 0.1), ("four", 0.1)]);
        let p = p.expect("probabilities");
        for (p, expected) in p.iter().zip([0.6, 0.1, 0.3]) {
            assert!((p - expected).abs() < 1e-6, "{p} for {expected}");
        }
        assert_eq!(classes.distribution(&[]), Ok(vec![0.0, 0.0, 1.0]));
    }

    #[test]
    fn impossible_probabilities_are_refused() {
        let classes = Classes::of(["yes"]);
        assert!(matches!(classes.distribution(&[("yes", 0.9), ("yes", 0.9)]), Err(SelectError::Config(_))));
        assert!(matches!(classes.distribution(&[("yes", -0.1)]), Err(SelectError::Config(_))));
        let nan = classes.distribution(&[("no", 0.1), ("yes", f32::NAN)]);
        assert!(matches!(nan, Err(SelectError::NonFinite { index: 1, .. })));
    }

    proptest! {
        #[test]
        fn a_meaning_is_its_own_meaning(text in "\\PC{0,20}|[a-z ,.0-9-]{0,20}|(one|twenty|hundred|thousand|and|a| |-){0,8}") {
            let once = meaning(&text);
            prop_assert_eq!(meaning(&once), once);
        }

        #[test]
        fn a_distribution_adds_up_to_1(weights in prop::collection::vec(0.0f32..0.1, 0..10)) {
            let texts: Vec<String> = (0..weights.len()).map(|i| (i % 4).to_string()).collect();
            let classes = Classes::of(texts.iter().take(3).map(String::as_str));
            let answers: Vec<(&str, f32)> = texts.iter().map(String::as_str).zip(weights).collect();
            let p = classes.distribution(&answers).expect("probabilities");
            prop_assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
