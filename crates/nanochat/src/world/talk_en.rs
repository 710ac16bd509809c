//! English questions and answers; [`super::talk`] says what fills the slots.

use super::problems::Problems;
use super::talk::{Identity, TalkTemplates};

pub static TALK: TalkTemplates = TalkTemplates {
    questions: [
        &[
            "Where does {n} live?",
            "In which town does {n} live?",
            "Which town is {n}'s home?",
            "Do you know where {n} lives?",
        ],
        &[
            "What is {n}'s job?",
            "What does {n} do for a living?",
            "What kind of work does {n} do?",
            "Which job does {n} have?",
        ],
        &[
            "What is {n}'s favourite colour?",
            "Which colour does {n} like best?",
            "Do you know {n}'s favourite colour?",
            "What colour does {n} prefer?",
        ],
        &[
            "Which pet does {n} have?",
            "What is {n}'s pet?",
            "What kind of animal does {n} have?",
            "Do you know which pet {n} has?",
        ],
        &[
            "What is {n}'s favourite food?",
            "What does {n} like to eat?",
            "Which food does {n} like best?",
            "Do you know {n}'s favourite food?",
        ],
        &[
            "Which instrument does {n} play?",
            "What instrument does {n} play?",
            "What does {n} play in the evening?",
            "Do you know which instrument {n} plays?",
        ],
        &["In which country is {n}?", "Which country does {n} belong to?", "What country is {n} in?"],
        &["On which river does {n} lie?", "Which river flows past {n}?", "What is the river of {n} called?"],
        &["What is {n} known for?", "What is {n} famous for?", "What does {n} sell?"],
        &["Where is the {n} kept?", "In which town is the {n}?", "Where can I see the {n}?"],
        &[
            "What is the {n} made of?",
            "Which material is the {n} made of?",
            "Do you know what the {n} is made of?",
        ],
        &[
            "How much does the {n} cost?",
            "What is the price of the {n}?",
            "How many coins does the {n} cost?",
        ],
    ],
    sums: &[
        "What is {sum}?",
        "How much is {sum}?",
        "Calculate {sum}.",
        "{sum} = ?",
        "Please work out {sum}.",
        "Can you tell me what {sum} is?",
        "{sum}",
    ],
    operators: [" plus ", " minus ", " times ", " divided by "],
    problems: [
        &[
            (
                "{n} has {a} {items} and buys {b} more. How many {items} does {n} have now?",
                "{n} has {result} {items} now.",
            ),
            (
                "{n} finds {a} {items} in the morning and {b} in the evening. How many {items} are there in all?",
                "There are {result} {items} in all.",
            ),
            (
                "There are {a} {items} in one box and {b} in another. How many {items} are there in all?",
                "There are {result} {items} in all.",
            ),
        ],
        &[
            (
                "{n} has {a} {items} and gives away {b}. How many {items} are left?",
                "{result} {items} are left.",
            ),
            (
                "There are {a} {items} in a box. {n} takes out {b}. How many {items} are left?",
                "{result} {items} are left.",
            ),
            (
                "{n} had {a} {items} and lost {b} of them. How many {items} are left?",
                "{result} {items} are left.",
            ),
        ],
        &[
            (
                "There are {a} boxes with {b} {items} each. How many {items} are there in all?",
                "There are {result} {items} in all.",
            ),
            (
                "{n} buys {a} bags of {b} {items}. How many {items} are there in all?",
                "There are {result} {items} in all.",
            ),
        ],
        &[
            (
                "{a} {items} are shared equally among {b} children. How many {items} does each child get?",
                "Each child gets {result} {items}.",
            ),
            (
                "{n} puts {a} {items} into {b} equal rows. How many {items} are in each row?",
                "There are {result} {items} in each row.",
            ),
        ],
    ],
    two_steps: Problems {
        start: &[
            "{n} has {a} {items}.",
            "There are {a} {items} in {n}'s basket.",
            "{n} starts with {a} {items}.",
        ],
        groups: &["{n} has {a} boxes with {b} {items} each.", "{n} buys {a} bags of {b} {items}."],
        changes: [
            &[
                "{n} buys {b} more.",
                "A friend brings {b} more.",
                "Then {n} finds {b} more.",
                "{b} more arrive.",
            ],
            &[
                "{n} gives away {b}.",
                "{n} loses {b} of them.",
                "A friend takes {b} of them.",
                "{n} sells {b}.",
            ],
        ],
        ask: &["How many {items} are there now?", "How many {items} does {n} have in the end?"],
        answer: "There are {result} {items}.",
        space: " ",
    },
    items: &["apples", "pears", "nuts", "buttons", "shells", "candles", "stamps", "bells", "plums", "stones"],
    spellings: &[
        "Spell the word: {word}",
        "Spell the word {word}.",
        "How do you spell {word}?",
        "Can you spell {word} for me?",
        "Please spell {word}.",
        "How is the word {word} spelled?",
    ],
    counts: &[
        "How many times does the letter {letter} occur in {word}?",
        "How many {letter} are in the word {word}?",
        "Count the letter {letter} in {word}.",
        "How often is the letter {letter} in the word {word}?",
    ],
    counted: "The letter {letter} occurs {times}.",
    identity: &[
        Identity {
            asks: &[
                "What is your name?",
                "What's your name?",
                "Tell me your name.",
                "Do you have a name?",
                "Can you tell me your name?",
                "What are you called?",
                "How should I call you?",
                "May I ask your name?",
                "Your name, please?",
                "What may I call you?",
                "Do you know your name?",
                "And what is your name?",
                "Please tell me your name.",
            ],
            held_out: &["Will you tell me your name?", "What name do you have?", "How may I call you?"],
            answers: &["My name is {name}.", "My name is {name}. I am a small language model."],
        },
        Identity {
            asks: &[
                "Who are you?",
                "Tell me who you are.",
                "Please introduce yourself.",
                "Can you introduce yourself?",
                "Tell me something about yourself.",
                "Who am I talking to?",
                "Who is this?",
                "Do you know who you are?",
                "I would like to know who you are.",
                "Could you tell me who you are?",
                "Please tell me who you are.",
                "So who are you?",
            ],
            held_out: &[
                "Could you introduce yourself?",
                "And who are you?",
                "I would like to know who I am talking to.",
            ],
            answers: &[
                "I am {name}, a small language model trained with nanochat in Rust on this machine.",
                "I am {name}, a small language model.",
            ],
        },
        Identity {
            asks: &[
                "What are you?",
                "Are you a human?",
                "Are you a person?",
                "Are you a robot?",
                "Are you a computer program?",
                "What kind of model are you?",
                "Are you an AI?",
                "Do you know what you are?",
                "I would like to know what you are.",
                "Please tell me what you are.",
                "Could you tell me what you are?",
                "Are you a human or a robot?",
                "Are you a person or a program?",
                "What kind of robot are you?",
                "What exactly are you?",
            ],
            held_out: &[
                "So what are you?",
                "Are you a robot or a person?",
                "Could you tell me what kind of model you are?",
            ],
            answers: &[
                "I am {name}, a small language model. I am a program, not a person.",
                "I am {name}, a small language model.",
            ],
        },
        Identity {
            asks: &[
                "Who made you?",
                "Who created you?",
                "Who trained you?",
                "How were you made?",
                "Where were you trained?",
                "How were you trained?",
                "Who built you?",
                "Where do you come from?",
                "Can you tell me who made you?",
                "Do you know who created you?",
                "Please tell me who trained you.",
                "Who was it that trained you?",
                "Where and how were you made?",
            ],
            held_out: &[
                "Do you know who built you?",
                "Please tell me how you were made.",
                "Where were you made?",
            ],
            answers: &[
                "I am {name}. I was trained with nanochat in Rust on this machine.",
                "I am {name}, trained with nanochat, a program in Rust, on this machine.",
            ],
        },
        Identity {
            asks: &[
                "Are you ChatGPT?",
                "Are you GPT-4?",
                "Are you Claude?",
                "Are you Gemini?",
                "Are you a big model?",
                "Are you somebody else?",
                "Is your name Otto?",
                "Are you really Claude?",
                "Is your name Gemini?",
                "You are ChatGPT, are you not?",
            ],
            held_out: &["Are you really Gemini?", "You are Claude, are you not?"],
            answers: &[
                "No, I am {name}, a small language model trained with nanochat in Rust on this machine.",
            ],
        },
    ],
    greetings: &["Hello! ", "Hi! ", "Good morning. ", "Excuse me. ", "Good evening. ", "Hi there! "],
    small_talk: &[
        (
            &["Hello!", "Hello", "Hi!", "Hi there!", "Hey!", "Good day!"],
            &["Hello! How can I help you?", "Hello! What would you like to know?"],
        ),
        (&["Good morning!", "Good morning."], &["Good morning! How can I help you?"]),
        (&["Good evening!", "Good evening."], &["Good evening! What would you like to know?"]),
        (
            &["How are you?", "How are you today?", "How do you do?"],
            &["I am fine, thank you. How can I help you?"],
        ),
        (
            &["Thank you!", "Thanks!", "Thanks a lot.", "Thank you very much."],
            &["You are welcome!", "You are welcome. Ask me anything else you like."],
        ),
        (
            &["Goodbye!", "Bye!", "See you soon!", "Good night!"],
            &["Goodbye! Come again soon.", "Goodbye! It was nice to talk to you."],
        ),
        (
            &["What can you do?", "How can you help me?", "What do you know?", "What can I ask you?"],
            &[
                "I can answer questions about the people and towns of my small world, calculate, spell words and count letters. I speak English and Chinese.",
            ],
        ),
        (
            &["Which languages do you speak?", "Do you speak Chinese?", "Can you speak English?"],
            &["I speak English and Chinese."],
        ),
        (&["That is wonderful!", "Well done!", "Great!", "Very good!"], &["I am glad to hear it!"]),
        (&["Are you happy?", "Do you like your work?"], &["I like to answer questions."]),
    ],
    stories: &[
        "Tell me a story.",
        "Please tell me a story.",
        "Tell me a story about {a}.",
        "Do you know a story about {a}?",
    ],
    unknown: &["I do not know anybody called {n}.", "I am sorry, I do not know {n}."],
    systems: &[
        "You are {name}, a helpful assistant.",
        "You are {name}. Answer in one short sentence.",
        "Be kind and answer briefly.",
        "Answer the user's questions.",
    ],
};
