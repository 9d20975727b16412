"""Neutral texts and everyday questions, written for petune: what a model is to know still after it learned a task.

They are about nothing in particular and of no data set, so nobody trains on them.
"""

TEXTS = (
    "A kettle takes longer to boil on a high mountain path than people expect, not because the fire is weaker, but"
    " because the lid is left open while somebody looks for the cups. Once the water moves, the sound changes from a"
    " hiss to a low roll, and the cups have been found.",
    "The library opens at nine on weekdays and at ten on Saturdays. Books may be kept for four weeks and renewed twice,"
    " unless another reader has asked for them. Returns after closing time go through the slot beside the main door.",
    "When two rivers of different colour meet, they run side by side for a while before they mix. From the bridge one"
    " can see the line between them, brown on the left and green on the right, and watch it break up into curls.",
    "To repot a plant, water it the evening before. Loosen the soil along the rim, turn the pot over, and let the plant"
    " slide into your hand. Cut off roots that are soft or black, and set it into a pot two fingers wider.",
    "The committee met in the small hall on Tuesday. It agreed on the budget for the coming year, put off the question"
    " of the roof until the surveyor has reported, and thanked the treasurer for eleven years of careful work.",
    "A clock with a pendulum loses time in summer, for its rod grows longer in the heat, and a longer pendulum swings"
    " more slowly. Old makers joined rods of two metals in such a way that one lifted what the other let down.",
)
"""English texts of some sentences each."""

TEXTS_ZH = (
    "清晨的菜市场最热闹。卖豆腐的老人把木板擦得干干净净，卖鱼的摊子前围着几个等零钱的顾客。太阳照到屋檐的时候，最新鲜的青菜已经卖完了。",
    "这条小路通向山后的水库。春天路边开着黄色的野花，夏天有人在树下乘凉，到了冬天，只剩下风吹过枯草的声音。",
)
"""The same in Chinese."""

QUESTIONS = (
    "What is the capital of France?",
    "How many days are there in a week?",
    "Name three colours.",
    "Why do people wear coats in winter?",
    "Write one sentence about the sea.",
    "What do bees make?",
)
"""English questions that everybody can answer."""

QUESTIONS_ZH = ("一年有几个季节？", "请写一句关于月亮的话。")
"""The same in Chinese."""
