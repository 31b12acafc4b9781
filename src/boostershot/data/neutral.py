"""Thirty paragraphs of plain English of our own, for the perplexity of a model where no text of the user's is at hand.

No paragraph is about harm, refusal or language models, and none is a question or its answer.
"""

from __future__ import annotations

NEUTRAL: tuple[str, ...] = (
    "The ferry left the harbour a little after seven. A light wind came from the west, and the few passengers on deck "
    "held their cups with both hands while the town grew smaller behind them.",
    "Bread dough rises because yeast turns sugar into gas, and the gas is caught in a net of gluten. If the kitchen "
    "is cold the dough needs longer, but it often tastes better for the wait.",
    "The library had been built in 1911 with money left by a merchant. Its reading room was lit from above, so that "
    "in winter the lamps had to be switched on by three in the afternoon.",
    "A river meanders because the water on the outside of a bend moves faster than that on the inside. It takes soil "
    "from one bank and leaves it on the other, and over the years the bend grows.",
    "My grandfather repaired clocks in the room above the shop. He kept the small screws in matchboxes, each with a "
    "number, and could tell from the sound alone which wheel had stopped.",
    "The committee met on the first Tuesday of the month. The minutes were read and approved, the treasurer reported "
    "a small surplus, and it was agreed to repaint the fence in the spring.",
    "Swallows return to the same barn year after year. They patch the old nest with mud from the pond, line it with "
    "feathers, and raise two broods before the nights turn cool again.",
    "The orchestra tuned to the oboe, as orchestras do. Then the lights went down, the conductor raised her hands, "
    "and for a second or two there was no sound in the hall at all.",
    "Limestone dissolves slowly in rain, which is slightly acid. Where it has done so for long enough there are "
    "caves, and in the caves the same stone is laid down again, drop by drop.",
    "The train was late, so she bought a newspaper and sat on the bench by the clock. A man beside her was teaching a "
    "child to whistle; by the time the train came the child could almost do it.",
    "To plant a tree, dig a hole twice as wide as the roots and no deeper. Set the tree upright, fill in the soil, "
    "press it down gently with the foot, and water it well in the first summer.",
    "The village has one street, two shops and a bridge that is older than either. On market days the cars are parked "
    "along the river as far as the mill, and the bakery sells out before ten.",
    "Glass is made of sand, soda and lime, melted together at a heat that few metals stand. It has no crystals, and "
    "so light passes through it almost as if nothing were there.",
    "The survey asked four hundred households how they travel to work. About half of them went by car, a third by bus "
    "or train, and the rest on foot or by bicycle, more in summer than in winter.",
    "In the evening the fishermen mended their nets on the quay. They worked without looking, talking about the "
    "weather and the price of diesel, while the gulls walked up and down between the boats.",
    "The moon keeps the same face towards the earth because it turns once on its axis in the time it takes to go "
    "round us. The far side was first seen in photographs taken by a probe.",
    "She had painted the kitchen yellow, and regretted it for a week. Then the autumn came with its grey mornings, "
    "and the colour of the walls was the first warm thing that one saw on getting up.",
    "The old road climbs in seven bends to the pass. From the top one sees two valleys: a green one with fields and "
    "church towers, and a narrow one with nothing but pines and a single line of poles.",
    "A good dictionary shows not only what a word means but how it has been used. The oldest quotation for a word is "
    "often from a letter or a bill, where nobody meant to write for later readers.",
    "The school moved to its present building in the year of the flood. The ground floor was still damp in September, "
    "and the first lessons were held in the gymnasium, with coats on.",
    "Wool keeps its warmth when it is wet, which is why sailors wore it. The fibres are crimped, hold air between "
    "them, and take up a third of their weight in water before they feel damp.",
    "At noon the builders stopped and sat in the shade of the wall. One of them had brought peaches, and handed them "
    "round; the stones were thrown, one after another, at an empty tin.",
    "The map was drawn in 1740 and is wrong about the coast, but its rivers are where they should be. The surveyor "
    "had walked along them, and had only been told about the sea.",
    "Tea came to the town by ship and was weighed at the customs house. The clerks wrote down the chests in large "
    "books which are still there, in good ink and a hand that anyone can read.",
    "A bicycle is stable when it moves because it can steer itself. If it leans to the left the front wheel turns to "
    "the left, and the bicycle comes up under its rider again.",
    "The garden belonged to three families, and nobody knew where one part ended. In June they took the table out "
    "under the cherry tree, and whoever came by was given a bowl and told to pick.",
    "The museum closes at five, but the guards begin to walk through the rooms at half past four. They know the "
    "visitors who stay in front of one picture, and leave them till last.",
    "Snow that has fallen overnight is loose and full of air. By the next day it has settled to two thirds of its "
    "depth, and after a week of frost and sun there is a crust that carries a dog.",
    "He learned the piano late, and practised in the morning before the others were awake. He played slowly and made "
    "few mistakes, and the cat, who disliked the radio, came in and lay on the carpet.",
    "The bridge was opened in May, two years later than planned and a little under its price. On the first day it was "
    "closed to cars, and most of the town walked across it and back again.",
)
