//! Views, wordings and chains: distributions that belong to one another and to what plain scoring says.

use super::*;

fn deep(views: usize, chains: usize, temperature: f64) -> Deep {
    Deep { views, chains, temperature, seed: 4, beside: false }
}

fn worded(item: ScoreItem, paraphrases: &[&str]) -> DeepItem {
    DeepItem { item, paraphrases: paraphrases.iter().map(ToString::to_string).collect() }
}

async fn look(engine: &Engine, items: Vec<DeepItem>, how: Deep) -> Vec<Depth> {
    let reply = engine.look_deeper(None, items, how).await.unwrap();
    assert!(reply.cost.flops > 0.0 && reply.cost.tokens <= reply.cost.padded_tokens);
    reply.items.into_iter().map(Result::unwrap).collect()
}

fn assert_same(a: &[f32], b: &[f32], within: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= within, "{what}: {x} and {y} differ by more than {within}");
    }
}

#[tokio::test]
async fn one_view_one_wording_and_no_chain_are_what_scoring_says_in_every_family() {
    for family in families::FAMILIES {
        let engine = families::engine_of(family).await;
        let item = ask(9, "how many?", &["1", "10", "2"]);
        let score = engine.score(None, vec![item.clone()]).await.unwrap().scores.remove(0).unwrap();
        let depth = look(&engine, vec![worded(item, &[])], deep(1, 0, 0.0)).await.remove(0);
        assert_same(&depth.probabilities, &score.probabilities, 2e-5, family);
        assert_eq!((depth.views, depth.paraphrases, depth.chains, depth.classes), (1, 1, 0, 3));
    }
}

#[tokio::test]
async fn wordings_are_what_scoring_says_of_each_and_views_hide_something() {
    for family in families::FAMILIES {
        let engine = families::engine_of(family).await;
        let words = ["how many?", "how many are there in all?", "count them"];
        let choices = ["1", "2", "yes"];
        let item = worded(ask(30, words[0], &choices), &words[1..]);
        let other = worded(ask(30, "is there any?", &choices), &["any there?"]);
        let depths = look(&engine, vec![item.clone(), other], deep(3, 0, 0.0)).await;
        let depth = &depths[0];
        assert_eq!((depth.views, depth.paraphrases, depth.probabilities.len()), (3, 3, 27), "{family}");
        for (wording, words) in words.iter().enumerate() {
            let plain = engine.score(None, vec![ask(30, words, &choices)]).await.unwrap();
            let plain = plain.scores[0].as_ref().unwrap();
            assert_same(&depth.probabilities[wording * 3..][..3], &plain.probabilities, 2e-5, family);
        }
        for view in 1..3 {
            let (seen, hidden) = (&depth.probabilities[..3], &depth.probabilities[view * 9..][..3]);
            assert!(seen.iter().zip(hidden).any(|(a, b)| (a - b).abs() > 1e-6), "{family}: view {view}");
        }
        let alone = look(&engine, vec![item], deep(3, 0, 0.0)).await;
        assert_same(&alone[0].probabilities, &depth.probabilities, 2e-5, family);
    }
}

#[tokio::test]
async fn what_is_told_beside_changes_nothing_and_blind_means_that_no_image_counts() {
    for family in families::FAMILIES {
        let engine = families::engine_of(family).await;
        let item = |shade| worded(ask(shade, "how many?", &["1", "10", "2"]), &["count"]);
        let items = || vec![item(9), item(200), worded(ask(9, "is there any?", &["yes", "no"]), &[])];
        let how = deep(3, 0, 0.0);
        let plain = look(&engine, items(), how).await;
        let told = look(&engine, items(), Deep { beside: true, ..how }).await;
        for (plain, told) in plain.iter().zip(&told) {
            assert_same(&plain.probabilities, &told.probabilities, 2e-5, family);
            let beside = told.beside.as_ref().unwrap();
            assert!((beside.blind.iter().sum::<f32>() - 1.0).abs() < 1e-5 && plain.beside.is_none());
            let map = &beside.maps[0];
            assert!((map.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4 && map.mass > 0.0, "{family}");
        }
        let blind = |at: usize| told[at].beside.as_ref().unwrap().blind.as_slice();
        assert_same(blind(0), blind(1), 2e-5, "two images, neither of which is seen");
        let (one, other) = (&told[0].probabilities[..3], &told[1].probabilities[..3]);
        assert!(one.iter().zip(other).any(|(a, b)| (a - b).abs() > 1e-4), "{family}: seen, they differ");
        // What stands between two images has seen the first.
        let two = families::about_two();
        let swapped = ScoreItem { images: two.images.iter().rev().cloned().collect(), ..two.clone() };
        let both =
            look(&engine, vec![worded(two, &[]), worded(swapped, &[])], Deep { beside: true, ..how }).await;
        let besides: Vec<&Beside> = both.iter().map(|depth| depth.beside.as_ref().unwrap()).collect();
        assert!(besides.iter().all(|beside| beside.maps.len() == 2), "{family}");
        assert_same(&besides[0].blind, &besides[1].blind, 2e-5, "whichever comes first, neither is seen");
        let alone = look(&engine, vec![item(9)], Deep { views: 1, beside: true, ..how }).await;
        assert_same(&alone[0].beside.as_ref().unwrap().blind, blind(0), 2e-5, "one view, alone");
    }
}

#[tokio::test]
async fn a_zoom_is_the_question_about_that_part_as_an_image_of_its_own() {
    let engine = engine().await;
    let whole = ask(9, "how many?", &["1", "10", "2"]);
    let window = [0.5, 0.0, 1.0, 0.5];
    let picture = ::image::load_from_memory(&whole.images[0]).unwrap().crop_imm(16, 0, 16, 16);
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    let part = ScoreItem { images: vec![bytes.into_inner().into()], ..whole.clone() };
    let zoom = |image, window| ZoomItem { item: whole.clone(), image, window };
    let items = vec![zoom(0, window), zoom(1, window), zoom(0, [0.0; 4]), zoom(0, [0.0, 0.0, 1.0, 1.0])];
    let zoomed = engine.zoom(None, items).await.unwrap().scores;
    let plain = engine.score(None, vec![part, whole]).await.unwrap().scores;
    let p = |score: &Result<Score, ItemError>| score.as_ref().unwrap().probabilities.clone();
    assert_same(&p(&zoomed[0]), &p(&plain[0]), 2e-5, "the part");
    assert_same(&p(&zoomed[3]), &p(&plain[1]), 2e-5, "all of it");
    assert!(matches!(&zoomed[1], Err(ItemError::Image { index: 1, reason }) if reason.contains("1 images")));
    assert!(matches!(&zoomed[2], Err(ItemError::Image { index: 0, .. })));
}

#[tokio::test]
async fn chains_are_the_same_in_any_batch_and_differ_from_one_another() {
    let folder = model_folder();
    let wide = Engine::start(config(folder.path())).await.unwrap();
    let narrow = EngineConfig { token_budget: 1, ..config(folder.path()) };
    let narrow = Engine::start(narrow).await.unwrap();
    let items = || {
        vec![
            worded(ask(0, "how many?", &["1", "2", "3"]), &["count"]),
            worded(ask(60, "is there any of these?", &["yes", "no", "not at all"]), &["any?"]),
        ]
    };
    let how = deep(2, 4, 1.0);
    let (together, cut) = (look(&wide, items(), how).await, look(&narrow, items(), how).await);
    for (a, b) in together.iter().zip(&cut) {
        assert_eq!((a.probabilities.len(), a.parsed.len()), (2 * 2 * 4 * 3, 16));
        assert_same(&a.probabilities, &b.probabilities, 1e-4, "a budget of one row");
        assert_eq!(a.parsed, b.parsed);
        for cell in a.probabilities.chunks(12) {
            let first = &cell[..3];
            assert!(cell.chunks(3).any(|own| own != first), "four chains of which none differs: {cell:?}");
        }
        for own in a.probabilities.chunks(3) {
            assert!((own.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
    let other = look(&wide, items(), Deep { seed: 5, ..how }).await;
    assert_ne!(other[0].probabilities, together[0].probabilities);
}

#[tokio::test]
async fn an_open_space_is_what_was_said_and_the_rest() {
    let engine = engine().await;
    let item = worded(ask(0, "what?", &[]), &["what is it?"]);
    let depth = look(&engine, vec![item], deep(2, 0, 0.0)).await.remove(0);
    assert_eq!(depth.classes, depth.answers.len() + 1);
    for own in depth.probabilities.chunks(depth.classes) {
        assert!((own.iter().sum::<f32>() - 1.0).abs() < 1e-4 && own.iter().all(|&p| p >= 0.0), "{own:?}");
    }
}

#[tokio::test]
async fn answers_after_reasoning_are_those_of_a_prediction_with_reasoning() {
    let engine = engine().await;
    let questions = ["how many?", "is there any of these at all, would you say?", "how many 1?"];
    let item = |question: &str| EvalItem {
        images: vec![image(7)],
        question: question.to_owned(),
        choices: ["1", "2", "yes"].map(str::to_owned).to_vec(),
        answer: "2".to_owned(),
        family: String::new(),
    };
    let items = questions.map(item).to_vec();
    let outcomes = engine.evaluate_reasoned(Target::Version(None), items.clone()).await.unwrap();
    for (EvalItem { images, question, choices, .. }, outcome) in items.into_iter().zip(outcomes) {
        let item = PredictItem { images, question, choices, reasoning: true, attention: false };
        let (said, outcome) = (engine.predict(None, item).await.unwrap().unwrap(), outcome.unwrap());
        assert_eq!(outcome.answer, said.answer);
        assert!((outcome.p_correct - said.probabilities[1]).abs() < 1e-4);
    }
}

#[tokio::test]
async fn members_are_distributions_around_the_score_and_none_where_none_are_asked_for() {
    let folder = model_folder();
    let engine = Engine::start(config(folder.path())).await.unwrap();
    let item = ask(0, "how many?", &["1", "10", "100", "7"]);
    let score = engine.score(None, vec![item.clone()]).await.unwrap().scores.remove(0).unwrap();
    assert_eq!(score.members.len(), 8 * 4);
    for member in score.members.chunks(4) {
        assert!((member.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert!(score.model > 0.0 && score.model < 4f32.ln());
    let none = Engine::start(EngineConfig { members: 0, ..config(folder.path()) }).await.unwrap();
    let plain = none.score(None, vec![item]).await.unwrap().scores.remove(0).unwrap();
    assert_eq!((plain.members.len(), plain.model), (0, 0.0));
    assert_close(&plain, &score, 1e-6);
}
