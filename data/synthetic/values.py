"""Names and values of the synthetic dialogues: three disjoint slices of every pool (train | validation | heldout)."""

from __future__ import annotations

SPLITS = ("train", "validation", "heldout")

_NAMES = """
Ann Ben Clara David Elsa Frank Greta Henry Iris Jonas Kate Leo Mona Nils Olga Paul Rosa Simon Tessa Victor Wanda Albert
Bella Carl Doris Emil Flora Gavin Holly Isaac Julia Kurt Lydia Marcus Nadia Oscar Priya Ralph Sonia Tobias
| Ulla Vincent Yvonne Zach Agnes Bruno Celia Dennis Edith Felix Hanna Igor
| Jasmin Karim Leila Mateo Noor Orla Pavel Quinn Rafael Selma Tariq Uma Viktor Willa Xavier Zelda
"""

# Slices are separated by "|", items by commas. Composed pools (car, drink, date) combine two lists.
_POOLS = {
    "city": """
Lyon, Ghent, Porto, Leeds, Turin, Malmo, Graz, Basel, Seville, Krakow, Bergen, Tampere, Utrecht, Bilbao, Dresden,
Cork, Nantes, Verona, Boston, Denver, Seattle, Toronto, Austin, Tucson, Memphis, Omaha, Perth, Adelaide, Osaka,
Nagoya, Busan, Lima, Bogota, Quito, Cairo, Tunis, Accra, Nairobi, Jaipur, Hanoi
| Salzburg, Aarhus, Antwerp, Genoa, Calgary, Portland, Kobe, Dakar, Kigali, Pune
| Lausanne, Tallinn, Vilnius, Zagreb, Ottawa, Phoenix, Sapporo, Windhoek, Montevideo, Wellington, Girona, Bremen""",
    "employer": """
Acmetron, Brightwell, Calderon Labs, Daybreak Media, Elmwood Bank, Finchley Press, Gridline, Hawthorn Foods, Inkspire,
Juniper Air, Kestrel Motors, Lumitech, Marlow Steel, Northgate, Oakmont, Pinecrest Hotels, Quantix, Riverton, Solmark,
Tidewater, Umbra Games, Vantara, Westbrook, Yarrow Farms, Zenlogic, Coppergate, Stonebridge, Palmetto Shipping
| Bluepeak, Cloverfield, Dunmore Glass, Eastlake, Fernhill, Goldcrest, Helixon, Ironbark
| Ashdown, Briarcliff, Cobaltine, Driftwood Studios, Emberlight, Foxglove Health, Granary Row, Harborline, Kitewing,
Larkspur Rail""",
    "job": """
baker, nurse, welder, plumber, teacher, translator, carpenter, librarian, surveyor, pharmacist, florist, tailor, chef,
barber, courier, editor, accountant, architect, beekeeper, butcher, cashier, dentist, economist, farmer, firefighter,
gardener, geologist, glazier, interpreter, jeweller, judge, lifeguard, mechanic, midwife, miner, optician, painter,
pilot
| potter, printer, roofer, sailor, tiler, usher, vet, waiter, zookeeper
| actuary, blacksmith, botanist, cobbler, paramedic, locksmith, bookbinder, astronomer, electrician, receptionist,
stonemason, undertaker""",
    "car_make": """
Volvo, Toyota, Fiat, Honda, Skoda, Peugeot, Mazda, Subaru, Renault, Nissan, Ford, Opel, Kia, Audi, Seat, Lexus
| Citroen, Hyundai, Jeep, Suzuki, Dacia
| Tesla, Saab, Porsche, Mitsubishi, Lancia, Bentley""",
    "car_colour": "blue, red, green, white, black, silver | grey, yellow, brown | orange, purple, beige, turquoise",
    "instrument": """
cello, flute, guitar, piano, double bass, trumpet, violin, harp, banjo, clarinet, trombone, accordion, ukulele,
saxophone, bassoon, tuba, harmonica, organ, recorder, sitar, fiddle, mandola, xylophone, concertina, lute, cornet
| mandolin, oboe, piccolo, zither, marimba, euphonium
| viola, theremin, didgeridoo, dulcimer, bouzouki, vibraphone, harpsichord, ocarina, balalaika""",
    "allergy": """
peanuts, shrimp, eggs, milk, strawberries, walnuts, mustard, celery, soy, kiwis, sesame, lobster, peaches, almonds,
oysters, tomatoes, lupin, cashews, garlic, mangoes, bananas, squid, wheat, apples, cherries, crab
| hazelnuts, pineapple, mussels, plums, corn, avocados
| pistachios, papaya, clams, buckwheat, apricots, rhubarb, scallops, lentils, melons""",
    "dish": """
lasagne, paella, ramen, goulash, pad thai, moussaka, risotto, fish pie, pancakes, biryani, tacos, gnocchi, borscht,
falafel, curry, schnitzel, dumplings, pho, gazpacho, fondue, carbonara, meatballs, ratatouille, burritos, sushi,
chowder
| pierogi, couscous, enchiladas, satay, stroganoff, quiche
| tiramisu, bibimbap, cassoulet, empanadas, shakshuka, poutine, jambalaya, spanakopita, tempura""",
    "film": """
Casablanca, Jaws, Alien, Vertigo, Amelie, Rocky, Fargo, Gravity, Titanic, Psycho, Rebecca, Shrek, Frozen, Inception,
Memento, Gladiator, Chinatown, Platoon, Tootsie, Aladdin, Braveheart, Laura, Metropolis, Zodiac, Dunkirk, Top Gun
| Skyfall, Moonlight, Parasite, Spartacus, Notorious, Labyrinth
| Arrival, Goodfellas, Interstellar, Persepolis, Whiplash, Coraline, Amadeus, Nosferatu, Ponyo""",
    "sister": """
Abby, Beth, Carol, Dora, Emma, Faye, Gina, Hazel, Ida, Joan, Kim, Lucy, Megan, Nora, Opal, Pam, Ruth, Sara, Tina,
Vera, Wilma, Amber, Bianca, Daisy, Elena, Freya
| Gloria, Heidi, Ingrid, Jodie, Karen, Lorna, Mabel
| Nell, Odette, Petra, Rhona, Sybil, Thea, Ursula, Violet, Yara, Zora""",
    "language": """
Spanish, Danish, Welsh, Korean, Polish, Greek, Turkish, Arabic, Hindi, Dutch, Czech, Swedish, Finnish, Latin, Hebrew,
Swahili, Thai, Russian, Basque, Irish, Catalan, Hungarian, Persian, Tamil, Zulu, Maltese
| Norwegian, Romanian, Bengali, Estonian, Galician, Urdu
| Icelandic, Japanese, Ukrainian, Albanian, Mongolian, Quechua, Tagalog, Yoruba, Slovene""",
    "sport": """
tennis, rowing, squash, hockey, rugby, fencing, cycling, archery, badminton, volleyball, handball, cricket, golf,
swimming, skating, netball, climbing, curling, boxing, triathlon, baseball, kayaking, snooker, darts, football,
sailing
| surfing, wrestling, softball, padel, windsurfing, bowls
| lacrosse, kitesurfing, orienteering, polo, gymnastics, canoeing, bouldering, pickleball, biathlon""",
    "band": """
Radiohead, Abba, Queen, Blur, Oasis, Genesis, Nirvana, Coldplay, Blondie, Madness, Portishead, Keane, Travis, Placebo,
Garbage, Kraftwerk, Toto, Erasure, Pulp, Suede, Metallica, Aerosmith, Wilco, Supergrass, Moloko, Interpol
| Roxette, Elbow, Weezer, Tindersticks, Bauhaus, Hozier
| Muse, Goldfrapp, Slowdive, Evanescence, Mogwai, Fleetwood Mac, Pixies, Stereolab, Calexico""",
    "drink_base": """
latte, cappuccino, hot chocolate, milkshake, cordial, soda
| lemonade, smoothie, tonic
| cortado, chai, frappe, kombucha""",
    "drink_flavour": """
vanilla, cinnamon, hazel, ginger, coconut, honey, caramel
| lemon, maple, rose
| cardamom, lavender, turmeric, matcha""",
    "phone": """
Nokia, Pixel, Galaxy, Fairphone, Motorola, Huawei, Oppo, Xiaomi, Vivo, Realme, Lenovo, Alcatel, Siemens, Doro,
Gigaset, Asus, Panasonic, Philips, Poco, Redmi, Meizu, Palm
| Blackview, Cubot, Tecno, Wiko, Umidigi
| Blackberry, Sony, Kyocera, Razr, Zenfone, Ulefone, Vertu, Gionee""",
    "class": """
pottery, salsa, calligraphy, perfumery, woodwork, ballet, sewing, bookkeeping, baking, photography, drawing,
cartooning, tango, felting, weaving, origami, watercolour, improv, sculpture, knitting, marquetry, flamenco,
upholstery, astrology, mime, batik
| collage, macrame, mosaic, etching, singing, quilting, embroidery, juggling
| lacemaking, ceramics, screenprinting, enamelling, beatboxing, foraging, puppetry, basketry, swing dance,
glassblowing, mindfulness, storytelling""",
    "club": """
chess, genealogy, book, camera, quiz, bridge, drama, poetry, cheese, birding, debating, scrabble, wine, garden,
cooking, sundial, model train, history, crossword, astronomy, jazz, tea, stamp, backgammon, puzzle, vinyl
| comics, domino, kite, bonsai, whisky, antiques, robotics, speedcubing
| geocaching, mushroom, sudoku, philosophy, opera, mahjong, fossil, lockpicking, whittling, cider, cartography,
trivia""",
    "magazine": """
Vogue, Wired, Maxim, Newsweek, Forbes, Esquire, Mojo, Empire, Harpers, Elle, Fortune, Tatler, Uncut, Prospect, Granta,
Apollo, Frieze, Monocle, Bazaar, Allure, Cosmopolitan, Playbill, Kerrang, Cricketer, Autocar, Decanter
| Artforum, Grazia, Jacobin, Maclean, Oryx, Puck
| Spectator, Smithsonian, Paste, Dwell, Sunset, Kinfolk, Aperture, Billboard, Mother Jones, Gramophone, Saveur,
Wallpaper""",
    "charity": """
food bank, animal shelter, soup kitchen, toy library, hospice, night shelter, repair cafe, youth centre, crisis line,
museum shop, city farm, lifeboat station, blood bank, orchard, wildlife rescue, thrift store, refugee centre, theatre
bar, reading room, bike workshop, school garden, nature reserve, help desk, cat rescue
| badger hospital, village hall, canal trust, dog pound, tool shed, steam railway
| donkey sanctuary, literacy project, bird observatory, seed bank, playgroup, air ambulance, clothing swap,
planetarium, lighthouse, coral nursery, homework circle, heritage mill""",
    "wish": """
kettle, toaster, tent, lamp, blender, armchair, rucksack, telescope, sofa, bookcase, skateboard, hammock, rug, mirror,
scarf, wardrobe, globe, camera strap, teapot, wok, saddle, bread bin, juicer, desk, pillow, suitcase
| fan heater, mattress, whisk, clock, curtain, vase
| dehumidifier, sleeping bag, pressure cooker, footstool, projector, chandelier, typewriter, barometer, trampoline,
griddle, doormat, easel""",
    "trip": """
Norway, Peru, Malta, Kenya, Iceland, Cuba, Jordan, Nepal, Chile, Greece, Portugal, Morocco, Vietnam, Ireland, Croatia,
Japan, Brazil, Cyprus, Fiji, Canada, Poland, Spain, Laos, Ghana, Estonia, Crete
| Bolivia, Latvia, Oman, Tonga, Austria, Corsica
| Georgia, Uruguay, Bhutan, Senegal, Finland, Madagascar, Sardinia, Tasmania, Zanzibar""",
    "appointment": """
doctor, solicitor, barrister, physio, dermatologist, banker, cardiologist, notary, orthodontist, mortgage adviser,
career coach, allergist, surgeon, dietitian, tax adviser, therapist, headmaster, landlord, hypnotist, radiologist,
hearing specialist, osteopath
| podiatrist, insurer, neurologist, estate agent, headhunter
| chiropractor, ophthalmologist, immigration lawyer, acupuncturist, wedding planner, periodontist, genealogist,
sculptor""",
    "concert": """
Mozart, Vivaldi, Bach, Verdi, Puccini, Chopin, Brahms, Mahler, Haydn, Handel, Schubert, Wagner, Dvorak, Elgar, Ravel,
Debussy, Liszt, Grieg, Rossini, Bizet, Purcell, Holst
| Sibelius, Bartok, Bruckner, Telemann, Janacek
| Shostakovich, Rachmaninov, Monteverdi, Stravinsky, Gershwin, Smetana, Paganini, Boccherini""",
    "exam": """
chemistry, physics, algebra, geography, biology, economics, statistics, grammar, law, anatomy, accounting, music
theory, driving theory, first aid, logic, sociology, botany, geometry, ethics, finance, calculus, linguistics
| ecology, psychology, politics, nutrition, navigation
| genetics, thermodynamics, archaeology, pharmacology, trigonometry, criminology, optics, metallurgy""",
    "pet": """
greyhound, parrot, tabby kitten, hamster, poodle, tortoise, beagle, rabbit, canary, guinea pig, labrador, ferret,
terrier, budgie, siamese cat, gecko, dachshund, goldfish, pony, spaniel, duckling, corgi, hedgehog, pug, mouse
| whippet, cockatiel, newt, husky, angora, stick insect
| chameleon, dalmatian, axolotl, cockatoo, chinchilla, iguana, chihuahua, donkey foal, bulldog""",
    "pet_name": """
Momo, Biscuit, Pickle, Ziggy, Pepper, Socks, Noodle, Waffles, Tiger, Bandit, Cookie, Rusty, Smokey, Pudding, Snowy,
Peanut, Buster, Marble, Toffee, Muffin, Scout, Dusty, Gizmo, Patch, Rocket, Bubbles
| Flapjack, Fudge, Misty, Nugget, Whiskers, Inky
| Sprocket, Clementine, Jellybean, Mischief, Thunder, Velvet, Zorro, Pebbles, Wookie, Truffle""",
    "den": """
attic, cellar, pantry, hallway, conservatory, laundry room, greenhouse, woodshed, boiler room, stairwell, porch, loft,
barn, stable, bay window, utility room
| veranda, larder, cloakroom, workshop
| sunroom, alcove, fireplace, staircase, balcony, radiator, windowsill, aquarium""",
    "month": """
January, February, March, April, May, June
| July, August, September
| October, November, December""",
}

_COMPOSED = {
    "car": ("car_colour", "car_make"),
    "drink": ("drink_flavour", "drink_base"),
}


def _slices(block: str, separator: str | None) -> dict[str, tuple[str, ...]]:
    parts = [tuple(" ".join(item.split()) for item in part.split(separator)) for part in block.split("|")]
    return dict(zip(SPLITS, parts, strict=True))


def _load_pools() -> dict[str, dict[str, tuple[str, ...]]]:
    raw = {name: _slices(block, ",") for name, block in _POOLS.items()}
    pools = {name: raw[name] for name in raw if name != "month" and not any(name in c for c in _COMPOSED.values())}
    for name, (first, second) in _COMPOSED.items():
        pools[name] = {s: tuple(f"{x} {y}" for x in raw[first][s] for y in raw[second][s]) for s in SPLITS}
    pools["date"] = {s: tuple(f"{day} {month}" for month in raw["month"][s] for day in range(1, 29)) for s in SPLITS}
    return pools


NAMES: dict[str, tuple[str, ...]] = _slices(_NAMES, None)
"""First names of the speakers, by split."""

VALUES: dict[str, dict[str, tuple[str, ...]]] = _load_pools()
"""Values by pool and split; no value occurs in two splits or two pools."""
