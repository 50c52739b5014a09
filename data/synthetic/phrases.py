"""Phrasing of the synthetic dialogues, as data: a training pool and a held-out pool that share no masked 4-gram.

Every line of an attribute's block is `kind: text`. Facts are `turn => entry`: what the speaker says, and the memory
written from it. Placeholders: {v} {av} the value, alone and with its article; {old} {aold} the value it replaces; {d} a
date; {x} a pet's name; {n} the speaker; {who} the person asked about; {m} the entry as it stood.

Kinds: `s` state, `c` change, `r` refine, `w` withdraw, `q` question, `a` who-clause of a multi-hop question, `u` state
without a date (dated attributes), `k` question across two turns (pets).
"""

from __future__ import annotations

TRAIN: dict[str, str] = {
    "city": """
s: I live in {v} these days. => {n} lives in {v}
s: I moved to {v} last month. => {n} moved to {v}
s: We settled in {v} after the wedding. => {n} settled in {v}
s: My new flat is in {v}, near the river. => {n}'s flat is in {v}
s: I found a little house in {v}. => {n} found a house in {v}
s: Home is {v} for me. => {n}'s home is {v}
s: I rent a studio in {v}. => {n} rents a studio in {v}
s: I got the keys to my place in {v}. => {n} has a place in {v}
c: I left {old} and live in {v} now. => {n} lives in {v}
c: We packed up and moved from {old} to {v}. => {n} moved to {v}
c: Goodbye {old}, my home is {v} now. => {n}'s home is {v}
c: I gave up my place in {old} and rent in {v} now. => {n} rents in {v}
c: My flat is no longer in {old}, I live in {v}. => {n} lives in {v}
c: I moved again, so {v} is my home now. => {n}'s home is {v}
c: After years in {old} I bought a house in {v}. => {n} bought a house in {v}
q: Which city does {who} live in?
q: In what city is the home of {who}?
q: Where does {who} live?
q: Which city does {who} call home?
a: who lives in {v}
a: with a home in {v}
""",
    "employer": """
s: I work for {v}. => {n} works for {v}
s: I started at {v} on Monday. => {n} started at {v}
s: I signed a contract with {v}. => {n} signed a contract with {v}
s: {v} hired me last week. => {v} hired {n}
s: My employer is {v}, a decent company. => {n}'s employer is {v}
s: I got a desk at {v}. => {n} got a desk at {v}
s: These days {v} pays my salary. => {v} pays {n}'s salary
s: I joined {v} straight from college. => {n} joined {v}
c: I left {old} and work for {v} now. => {n} works for {v}
c: I quit {old}, and {v} hired me. => {v} hired {n}
c: {v} offered more money, so I left {old}. => {n} left for {v}
c: My employer is {v} now, no longer {old}. => {n}'s employer is {v}
c: I resigned from {old} and joined {v}. => {n} joined {v}
c: I changed companies and started at {v}. => {n} started at {v}
c: No more {old}, I signed with {v}. => {n} signed with {v}
q: Which company does {who} work for?
q: Who is the employer of {who}?
q: What company hired {who}?
q: At which company does {who} work?
a: who works for {v}
a: employed at {v}
""",
    "job": """
s: I work as {av}. => {n} works as {av}
s: I trained as {av} after school. => {n} trained as {av}
s: My job is hard, being {av} is no joke. => {n}'s job is being {av}
s: I earn my living as {av}. => {n} earns a living as {av}
s: I became {av} two years ago. => {n} became {av}
s: I am {av} by profession. => {n} is {av} by profession
s: They gave me a job as {av}. => {n} got a job as {av}
s: I qualified as {av} at last. => {n} qualified as {av}
c: I stopped being {aold} and work as {av} now. => {n} works as {av}
c: I retrained, so I am {av} now, not {aold}. => {n} is {av}
c: I changed careers, from {old} to {v}. => {n} changed careers to {v}
c: I gave up work as {aold} and became {av}. => {n} became {av}
c: My days as {aold} are over, I am {av} now. => {n} is {av}
c: I changed jobs and earn my living as {av}. => {n} earns a living as {av}
q: What is the job of {who}?
q: What does {who} do for a living?
q: What does {who} work as?
q: Which profession does {who} have?
a: who works as {av}
a: whose job is being {av}
""",
    "car": """
s: I bought {av}. => {n} bought {av}
s: I drive {av}. => {n} drives {av}
s: My car is {av}, and it runs well. => {n}'s car is {av}
s: There is {av} in my garage. => {n} has {av} in the garage
s: I picked up {av} from the dealer. => {n} picked up {av}
s: I got {av} for a fair price. => {n} got {av}
s: I own {av}, second hand. => {n} owns {av}
s: My uncle sold me {av}. => {n} bought {av}
c: I sold the {old} and bought {av}. => {n} bought {av}
c: The {old} broke down, so I drive {av} now. => {n} drives {av}
c: I traded my {old} for {av}. => {n} traded for {av}
c: My car is {av} now, the {old} is gone. => {n}'s car is {av}
c: I scrapped the {old} and got {av}. => {n} got {av}
c: I got rid of my car and own {av} now. => {n} owns {av}
q: What car does {who} drive?
q: Which car does {who} own?
q: What kind of car does {who} have?
q: What is the car of {who}?
a: who drives {av}
a: who owns {av}
""",
    "instrument": """
s: I play the {v}. => {n} plays the {v}
s: I started lessons on the {v}. => {n} started lessons on the {v}
s: My instrument is the {v}. => {n}'s instrument is the {v}
s: I practise the {v} every evening. => {n} practises the {v}
s: I am learning the {v} from a neighbour. => {n} is learning the {v}
s: I play the {v} in a small orchestra. => {n} plays the {v} in an orchestra
s: My grandfather left me his {v}, so I play it daily. => {n} plays the {v}
c: I stopped with the {old} and play the {v} now. => {n} plays the {v}
c: I swapped the {old} for the {v}. => {n} swapped to the {v}
c: The {old} was too loud, so I am learning the {v}. => {n} is learning the {v}
c: I put away the {old} and practise the {v}. => {n} practises the {v}
c: My instrument is the {v} now, not the {old}. => {n}'s instrument is the {v}
c: I gave up the {old} and started lessons on the {v}. => {n} started lessons on the {v}
q: What instrument does {who} play?
q: Which instrument is {who} learning?
q: What is the instrument of {who}?
q: What does {who} practise in the evening?
a: who plays the {v}
a: learning the {v}
""",
    "allergy": """
s: I am allergic to {v}. => {n} is allergic to {v}
s: My doctor says I must avoid {v}. => {n} must avoid {v}
s: I get a rash from {v}. => {n} gets a rash from {v}
s: I cannot eat {v} without getting ill. => {n} cannot eat {v}
s: I have an allergy to {v}. => {n} has an allergy to {v}
s: The test found an allergy, so no {v} for me. => {n} has an allergy: no {v}
s: If I eat {v}, my throat swells. => {n}'s throat swells from {v}
c: I can eat {old} after all, my allergy is to {v}. => {n}'s allergy is to {v}
c: The test was wrong about {old}, I am allergic to {v}. => {n} is allergic to {v}
c: It was never {old}, I get a rash from {v}. => {n} gets a rash from {v}
c: My {old} allergy is gone, but I must avoid {v} now. => {n} must avoid {v}
c: The new test points to {v}, not {old}, as my allergy. => {n} has an allergy to {v}
c: Not {old}, the doctor says I cannot eat {v}. => {n} cannot eat {v}
q: What is {who} allergic to?
q: Which food must {who} avoid?
q: What food can {who} not eat?
q: What allergy does {who} have?
a: who is allergic to {v}
a: who cannot eat {v}
""",
    "dish": """
s: My favourite dish is {v}. => {n}'s favourite dish is {v}
s: I could eat {v} every day. => {n} could eat {v} every day
s: Nothing beats {v} for me. => nothing beats {v} for {n}
s: I always order {v} when we eat out. => {n} always orders {v}
s: I love {v} more than any other food. => {n} loves {v} more than any food
s: My comfort food is {v}. => {n}'s comfort food is {v}
s: For dinner I like {v} best. => {n} likes {v} best for dinner
c: I am tired of {old}, my favourite dish is {v} now. => {n}'s favourite dish is {v}
c: I used to love {old}, but I like {v} best now. => {n} likes {v} best
c: Forget {old}, I could eat {v} every day. => {n} could eat {v} every day
c: I no longer order {old}, I always order {v}. => {n} always orders {v}
c: My comfort food is {v} now instead of {old}. => {n}'s comfort food is {v}
c: These days I prefer {v} to {old}. => {n} prefers {v}
q: What is the favourite dish of {who}?
q: Which food does {who} like best?
q: What does {who} love to eat?
q: What dish does {who} always order?
a: whose favourite dish is {v}
a: who always orders {v}
""",
    "film": """
s: My favourite film is {v}. => {n}'s favourite film is {v}
s: I have seen {v} ten times. => {n} has seen {v} ten times
s: No film is better than {v}. => {n} thinks no film is better than {v}
s: I adore {v}, what a film. => {n} adores the film {v}
s: I love {v} more than any other film. => {n} loves {v} more than any film
s: I can quote all of {v}, I watch it so often. => {n} can quote all of {v}
s: The best film I know is {v}. => the best film {n} knows is {v}
c: My favourite film is {v} now, no longer {old}. => {n}'s favourite film is {v}
c: I used to adore {old}, but {v} is better. => {n} thinks {v} is better
c: {v} has replaced {old} as my favourite film. => {v} is {n}'s favourite film
c: I watched {v}, and I love it more than {old}. => {n} loves {v} most
c: Forget {old}, the best film I know is {v}. => the best film {n} knows is {v}
c: I am over {old}, I adore {v} now. => {n} adores {v}
q: What is the favourite film of {who}?
q: Which film does {who} love most?
q: What film does {who} adore?
q: Which film does {who} think is best?
a: whose favourite film is {v}
a: who adores the film {v}
""",
    "sister": """
s: My sister is called {v}. => {n}'s sister is called {v}
s: I have a sister, {v}. => {n} has a sister, {v}
s: My sister {v} phoned me yesterday. => {n}'s sister is {v}
s: I share a birthday with my sister {v}. => {n} has a sister {v}
s: I grew up with one sister, {v}. => {n} grew up with one sister, {v}
s: {v}, my sister, is staying over. => {v} is {n}'s sister
s: My little sister {v} passed her finals. => {n}'s little sister is {v}
q: What is the sister of {who} called?
q: What is the name of the sister of {who}?
q: Who is the sister of {who}?
q: Which sister does {who} have?
a: whose sister is {v}
a: who has a sister called {v}
""",
    "language": """
s: I am learning {v}. => {n} is learning {v}
s: I take evening lessons in {v}. => {n} takes lessons in {v}
s: I study {v} with an app. => {n} studies {v}
s: My tutor says my {v} is improving. => {n} has a tutor for {v}
s: I want to speak {v} by next year. => {n} wants to speak {v}
s: I bought a grammar to learn {v}. => {n} bought a grammar to learn {v}
s: I am working on my {v} verbs. => {n} is working on {v}
c: I dropped {old} and am learning {v} now. => {n} is learning {v}
c: {old} was too hard, so I study {v} now. => {n} studies {v}
c: I switched from {old} to {v} lessons. => {n} switched to {v} lessons
c: No more {old}, I want to speak {v}. => {n} wants to speak {v}
c: I gave up on {old} and take lessons in {v}. => {n} takes lessons in {v}
c: My tutor teaches me {v} now, not {old}. => {n}'s tutor teaches {v}
q: Which language is {who} learning?
q: What language does {who} study?
q: What language does {who} want to speak?
q: In which language does {who} take lessons?
a: who is learning {v}
a: who studies {v}
""",
    "sport": """
s: I do {v} twice a week. => {n} does {v} twice a week
s: My sport is {v}. => {n}'s sport is {v}
s: I took up {v} to keep fit. => {n} took up {v}
s: I train for {v} on Sundays. => {n} trains for {v}
s: I am mad about {v}, I never miss practice. => {n} is mad about {v}
s: A friend got me into {v}. => a friend got {n} into {v}
s: I joined a team for {v}. => {n} joined a team for {v}
c: I stopped {old} and took up {v}. => {n} took up {v}
c: My knees hate {old}, so I do {v} now. => {n} does {v}
c: My sport is {v} now, no longer {old}. => {n}'s sport is {v}
c: I swapped {old} for {v}. => {n} swapped to {v}
c: I quit {old} and train for {v}. => {n} trains for {v}
c: {old} bored me, I am mad about {v} now. => {n} is mad about {v}
q: Which sport does {who} do?
q: What sport did {who} take up?
q: What sport does {who} train for?
q: What is the sport of {who}?
a: who does {v}
a: whose sport is {v}
""",
    "band": """
s: My favourite band is {v}. => {n}'s favourite band is {v}
s: I listen to {v} all day. => {n} listens to {v} all day
s: I have every record by {v}. => {n} has every record by {v}
s: I am a big fan of {v}. => {n} is a big fan of {v}
s: No band is as good as {v}. => {n} thinks no band is as good as {v}
s: I play {v} in the car all the time. => {n} plays {v} in the car
s: I fell in love with the songs of {v}. => {n} loves the songs of {v}
c: My favourite band is {v} now, not {old}. => {n}'s favourite band is {v}
c: I got bored of {old} and listen to {v} now. => {n} listens to {v}
c: I am no longer a fan of {old}, give me {v}. => {n} is a fan of {v}
c: I used to play {old}, but I love {v} now. => {n} loves {v}
c: {v} is better than {old}, I have changed my mind. => {n} thinks {v} is better
c: I sold my records by {old} and collect {v}. => {n} collects {v}
q: What is the favourite band of {who}?
q: Which band does {who} listen to?
q: What band is {who} a fan of?
q: Which band does {who} love?
a: who listens to {v}
a: who is a fan of {v}
""",
    "drink": """
s: My usual order is {av}. => {n}'s usual order is {av}
s: I start every day with {av}. => {n} starts every day with {av}
s: I always get {av} at the counter. => {n} always gets {av}
s: My favourite drink is {av}. => {n}'s favourite drink is {av}
s: I cannot work without {av}. => {n} cannot work without {av}
s: I treat myself to {av} at lunch. => {n} has {av} at lunch
s: I like to drink {av} after work. => {n} likes to drink {av}
c: My usual order is {av} now, not {aold}. => {n}'s usual order is {av}
c: I gave up the {old} and drink {av} now. => {n} drinks {av}
c: I start the day with {av} instead of {aold}. => {n} starts the day with {av}
c: The {old} got too sweet, I always get {av} now. => {n} always gets {av}
c: I switched from {aold} to {av}. => {n} switched to {av}
c: No more {old} for me, I like {av}. => {n} likes {av}
q: What is the usual drink of {who}?
q: What does {who} like to drink?
q: Which drink does {who} always get?
q: What is the favourite drink of {who}?
a: who likes to drink {av}
a: whose usual order is {av}
""",
    "phone": """
s: I bought a new phone, {av}. => {n} bought a new phone, {av}
s: My phone is {av}. => {n}'s phone is {av}
s: I use {av} for my calls. => {n} uses {av} for calls
s: My parents gave me {av} as a phone. => {n} got {av} as a phone
s: I carry {av}, it takes great pictures. => {n} carries {av}
s: The phone I ordered is {av}. => the phone {n} ordered is {av}
s: I have {av} in my pocket. => {n} has {av}
c: My {old} died, so my phone is {av} now. => {n}'s phone is {av}
c: I replaced the {old} with {av}. => {n} has {av} now
c: I dropped my {old} and bought {av}. => {n} bought {av}
c: My old phone is gone, I use {av} now. => {n} uses {av}
c: I sold the {old} and carry {av}. => {n} carries {av}
c: The {old} was slow, so I ordered {av}. => {n} ordered {av}
q: Which phone does {who} use?
q: What phone does {who} have?
q: What brand is the phone of {who}?
q: Which phone does {who} own?
a: who uses {av} as a phone
a: whose phone is {av}
""",
    "class": """
s: I signed up for {av} class. => {n} signed up for {av} class
s: I go to {av} class on Tuesdays. => {n} goes to {av} class
s: My {v} class is great fun. => {n} has {av} class
s: I am taking {av} class at the college. => {n} is taking {av} class
s: I started {av} class this week. => {n} started {av} class
s: I booked a course in {v}. => {n} booked a course in {v}
s: I paid for a term of {v} class. => {n} paid for a term of {v} class
w: I dropped the {v} class.
w: I no longer go to {v} class.
w: The {v} class is over for me, I quit.
w: I gave up on the {v} course.
w: My {v} class got cancelled.
w: I stopped taking the {v} class.
w: I left the {v} class, the teacher was rude.
q: Which class is {who} still taking?
q: What class does {who} still go to?
q: Which course is {who} still in?
q: What class has {who} not dropped?
""",
    "club": """
s: I joined the {v} club. => {n} joined the {v} club
s: I am a member of the {v} club. => {n} is a member of the {v} club
s: I meet new people at the {v} club. => {n} goes to the {v} club
s: The {v} club let me in. => the {v} club let {n} in
s: I spend my Fridays at the {v} club. => {n} spends Fridays at the {v} club
s: I paid my fee for the {v} club. => {n} paid the fee for the {v} club
s: My neighbour took me along to the {v} club. => {n} went along to the {v} club
w: I left the {v} club.
w: I am not a member of the {v} club any more.
w: I cancelled my place in the {v} club.
w: The {v} club closed down, so I am out.
w: I quit the {v} club last week.
w: No more {v} club for me.
w: I do not go to the {v} club now.
q: Which club is {who} still a member of?
q: What club does {who} still go to?
q: Which club has {who} not left?
q: In what club is {who} still?
""",
    "magazine": """
s: I subscribed to {v}. => {n} subscribed to {v}
s: I get {v} in the post every month. => {n} gets {v} in the post
s: I took out a subscription to {v}. => {n} took out a subscription to {v}
s: I read {v} from cover to cover. => {n} reads {v}
s: My aunt pays for my {v} subscription. => {n} has a {v} subscription
s: I signed up to receive {v}. => {n} signed up to receive {v}
s: {v} lands on my doormat each month. => {n} receives {v} each month
w: I cancelled my subscription to {v}.
w: I stopped getting {v}, it got too dear.
w: I no longer read {v}.
w: My {v} subscription ran out, and that is fine.
w: I ended the subscription to {v} this morning.
w: No more {v} in my post.
w: I unsubscribed from {v}.
q: Which magazine does {who} still get?
q: What magazine is {who} still subscribed to?
q: Which magazine does {who} still read?
q: What subscription has {who} kept?
""",
    "charity": """
s: I volunteer at the {v}. => {n} volunteers at the {v}
s: I help out at the {v} on weekends. => {n} helps out at the {v}
s: I offered my time to the {v}. => {n} offered time to the {v}
s: I do unpaid shifts at the {v}. => {n} does shifts at the {v}
s: The {v} took me on as a volunteer. => the {v} took {n} on as a volunteer
s: I lend a hand at the {v}. => {n} lends a hand at the {v}
s: I put my name down to help the {v}. => {n} helps the {v}
w: I stopped volunteering at the {v}.
w: I no longer help out at the {v}.
w: My shifts at the {v} have ended.
w: I had to leave the {v}, no time.
w: I quit the {v} as a volunteer.
w: The {v} does not need me now.
w: I gave up helping at the {v}.
q: Where does {who} still volunteer?
q: Which place does {who} still help out at?
q: Where is {who} still a volunteer?
q: What place does {who} still give time to?
""",
    "wish": """
s: I put {av} on my shopping list. => {n} put {av} on the shopping list
s: I need to buy {av}. => {n} needs to buy {av}
s: I am saving up for {av}. => {n} is saving up for {av}
s: I want to get {av} for the flat. => {n} wants to get {av}
s: Next payday I will buy {av}. => {n} will buy {av} next payday
s: I am looking for {av} in the sales. => {n} is looking for {av}
s: I added {av} to my wish list. => {n} added {av} to the wish list
w: I do not need the {v} any more.
w: I took the {v} off my list.
w: I changed my mind about the {v}.
w: No need to buy the {v} now.
w: I will not get the {v} after all.
w: I stopped saving for the {v}.
w: The {v} is off my shopping list.
q: What does {who} still need to buy?
q: What is still on the shopping list of {who}?
q: What does {who} still want to get?
q: Which thing is {who} still saving for?
""",
    "trip": """
s: I fly to {v} on {d}. => {n} flies to {v} on {d}
s: I booked a trip to {v} on {d}. => {n} booked a trip to {v} on {d}
s: My holiday in {v} starts on {d}. => {n}'s holiday in {v} starts on {d}
s: I leave for {v} on {d}. => {n} leaves for {v} on {d}
s: I got tickets to {v}, we go on {d}. => {n} goes to {v} on {d}
s: I travel to {v} on {d}, all alone. => {n} travels to {v} on {d}
u: I booked a trip to {v}. => {n} booked a trip to {v}
u: I am planning a holiday in {v}. => {n} is planning a holiday in {v}
u: I will fly to {v} soon. => {n} will fly to {v}
u: I bought a ticket to {v}. => {n} bought a ticket to {v}
r: My trip to {v} starts on {d}. => {m} on {d}
r: I now have a date for {v}, it is {d}. => {m} on {d}
r: About {v}, I leave on {d}. => {m} on {d}
r: The flight to {v} is on {d}. => {m} on {d}
c: My trip to {v} has moved to {d}.
c: The flight to {v} is on {d} now.
c: I changed the date for {v} to {d}.
c: I leave for {v} later, on {d}.
c: They moved my {v} flight to {d}.
q: When does {who} travel to {v}?
q: On what date does {who} leave for {v}?
q: When does the {v} trip of {who} start?
q: When is {who} going to {v}?
""",
    "appointment": """
s: I see the {v} on {d}. => {n} sees the {v} on {d}
s: I have an appointment with the {v} on {d}. => {n} has an appointment with the {v} on {d}
s: The {v} gave me a slot on {d}. => {n} has a slot with the {v} on {d}
s: My visit to the {v} is on {d}. => {n}'s visit to the {v} is on {d}
s: On {d} I meet the {v}. => {n} meets the {v} on {d}
s: I must be at the {v} on {d}. => {n} must be at the {v} on {d}
u: I made an appointment with the {v}. => {n} made an appointment with the {v}
u: I have to see the {v} soon. => {n} has to see the {v}
u: I asked the {v} for a slot. => {n} asked the {v} for a slot
u: My back hurts, I must visit the {v}. => {n} must visit the {v}
r: The {v} can see me on {d}. => {m} on {d}
r: The appointment with the {v} is on {d}. => {m} on {d}
r: I meet that {v} on {d}. => {m} on {d}
r: The {v} rang, it will be on {d}. => {m} on {d}
c: The {v} moved my appointment to {d}.
c: My appointment with the {v} is on {d} now.
c: I see the {v} later, on {d}.
c: I asked for a new date, the {v} sees me on {d}.
c: The slot at the {v} changed to {d}.
q: When does {who} see the {v}?
q: On what date is the {v} appointment of {who}?
q: When does {who} meet the {v}?
q: What date did the {v} give {who}?
""",
    "concert": """
s: I hear a {v} concert on {d}. => {n} hears a {v} concert on {d}
s: I have tickets for {v} on {d}. => {n} has tickets for {v} on {d}
s: I sing {v} with the choir on {d}. => {n} sings {v} on {d}
s: On {d} I go to a {v} evening. => {n} goes to a {v} evening on {d}
s: I go to the {v} concert on {d}. => {n} goes to the {v} concert on {d}
s: My choir performs {v} on {d}. => {n}'s choir performs {v} on {d}
u: I got tickets for {v}. => {n} got tickets for {v}
u: I will hear a {v} concert. => {n} will hear a {v} concert
u: My choir is preparing {v}. => {n}'s choir is preparing {v}
u: I am going to a {v} evening. => {n} is going to a {v} evening
r: The {v} concert is on {d}. => {m} on {d}
r: My {v} tickets are for the show on {d}. => {m} on {d}
r: That {v} evening takes place on {d}. => {m} on {d}
r: I checked, {v} is on {d}. => {m} on {d}
c: The {v} concert has moved to {d}.
c: They put {v} back to {d}.
c: The hall flooded, so {v} is on {d} now.
c: My {v} tickets are for {d} now.
c: The date for {v} changed to {d}.
q: When is the {v} concert of {who}?
q: On what date does {who} hear {v}?
q: When does {who} go to hear {v}?
q: What date is the {v} evening of {who}?
""",
    "exam": """
s: I have an exam in {v} on {d}. => {n} has an exam in {v} on {d}
s: My {v} exam is on {d}. => {n}'s {v} exam is on {d}
s: I sit the {v} test on {d}. => {n} sits the {v} test on {d}
s: On {d} I must pass {v}. => {n} must pass {v} on {d}
s: I take my {v} finals on {d}. => {n} takes {v} finals on {d}
s: They test me in {v} on {d}. => {n} has a test in {v} on {d}
u: I have to pass an exam in {v}. => {n} has to pass an exam in {v}
u: I am studying for my {v} finals. => {n} is studying for {v} finals
u: I plan to sit the {v} test. => {n} plans to sit the {v} test
u: I must take {v} again. => {n} must take {v} again
r: The {v} exam is on {d}. => {m} on {d}
r: My test in {v} takes place on {d}. => {m} on {d}
r: They fixed the date for {v}, it is {d}. => {m} on {d}
r: I sit {v} on {d}, I learned. => {m} on {d}
c: The {v} exam has moved to {d}.
c: My {v} test is on {d} now.
c: They put the {v} exam off until {d}.
c: I sit {v} later, on {d}.
c: The date of my {v} finals changed to {d}.
q: When is the {v} exam of {who}?
q: On what date does {who} sit {v}?
q: When does {who} take {v}?
q: What date is the {v} test of {who}?
""",
    "pet": """
s: I adopted {av}. => {n} adopted {av}
s: I have {av} at home. => {n} has {av}
s: My pet is {av}. => {n}'s pet is {av}
s: I picked {av} from the litter. => {n} picked {av}
s: We got {av} for the children. => {n} got {av}
s: I gave {av} a new home. => {n} gave a home to {av}
s: I share my sofa with {av}. => {n} shares a sofa with {av}
s: I look after {av} now. => {n} looks after {av}
r: I call the {v} {x}. => {m} called {x}
r: My {v} is called {x}. => {m} called {x}
r: The {v} I mentioned has a name, {x}. => {m} called {x}
r: We settled on {x} for the {v}. => {m} called {x}
r: {x} is what we call the {v}. => {m} called {x}
r: My {v} answers to {x}. => {m} called {x}
q: What is the pet of {who} called?
q: What is the name of the {v} of {who}?
q: What does {who} call the {v}?
q: Which name did {who} give the pet?
k: What kind of animal is {x}, the pet of {who}?
k: Which animal does {who} call {x}?
k: What animal is {x}?
k: {x} lives with {who}, but what animal is it?
a: who has {av}
a: whose pet is {av}
""",
}

HELDOUT: dict[str, str] = {
    "city": """
s: I am based in {v} this year. => {n} is based in {v}
s: I relocated to {v} in spring. => {n} relocated to {v}
s: My apartment overlooks the harbour of {v}. => {n}'s apartment is in {v}
c: I relocated to {v}, leaving {old} behind. => {n} relocated to {v}
c: I am based in {v} since spring, {old} was too dull. => {n} is based in {v}
c: My apartment in {old} got sold, {v} is my base. => {n}'s base is {v}
q: Which town is {who} based in?
q: To which town did {who} relocate?
a: based in {v}
""",
    "employer": """
s: I am employed by {v}. => {n} is employed by {v}
s: I found a position with {v}. => {n} found a position with {v}
s: My boss at {v} seems kind. => {n}'s boss is at {v}
c: I am employed by {v} since leaving {old}. => {n} is employed by {v}
c: {old} let me go, I found a position with {v}. => {n} found a position with {v}
c: I transferred from {old} over to {v}. => {n} transferred over to {v}
q: Which firm employs {who}?
q: Name the firm where {who} found a position.
a: employed by {v}
""",
    "job": """
s: I serve as {av} downtown. => {n} serves as {av}
s: My occupation: {v}. => {n}'s occupation: {v}
s: I make ends meet as {av}. => {n} makes ends meet as {av}
c: I used to be {aold}, today I serve as {av}. => {n} serves as {av}
c: My occupation went from {old} over to {v}. => {n}'s occupation: {v}
c: I make ends meet as {av} since quitting as {aold}. => {n} makes ends meet as {av}
q: Which occupation belongs to {who}?
q: How does {who} make ends meet?
a: serving as {av}
""",
    "car": """
s: I ride around in {av}. => {n} rides around in {av}
s: I leased {av} this spring. => {n} leased {av}
s: My vehicle: {av}, fairly cheap. => {n}'s vehicle: {av}
c: I returned my {old} and leased {av}. => {n} leased {av}
c: I ride around in {av} since my {old} got stolen. => {n} rides around in {av}
c: My vehicle used to be {aold}, today it is {av}. => {n}'s vehicle is {av}
q: What vehicle does {who} ride around in?
q: Name the vehicle of {who}.
a: riding around in {av}
""",
    "instrument": """
s: I perform on the {v}. => {n} performs on the {v}
s: I tune my {v} all by myself. => {n} tunes the {v}
s: I rehearse daily with my {v}. => {n} rehearses with the {v}
c: My {old} got sold, I perform on the {v}. => {n} performs on the {v}
c: I rehearse with my {v} since the {old} broke. => {n} rehearses with the {v}
c: My {old} gathers dust, I tune my {v} instead. => {n} tunes the {v}
q: Musically, what does {who} perform on?
q: Name the musical tool that {who} rehearses with.
a: performing on the {v}
""",
    "allergy": """
s: I react badly to {v}. => {n} reacts badly to {v}
s: I swell up whenever I taste {v}. => {n} swells up from {v}
s: Doctors banned me from eating {v}. => doctors banned {n} from eating {v}
c: I react badly to {v}, though {old} turned out harmless. => {n} reacts badly to {v}
c: Doctors allow {old} again but banned me from eating {v}. => doctors banned {n} from eating {v}
c: I can taste {old} safely, yet I swell up from {v}. => {n} swells up from {v}
q: Which ingredient does {who} react badly to?
q: What did doctors ban {who} from eating?
a: reacting badly to {v}
""",
    "dish": """
s: I crave {v} all year. => {n} craves {v}
s: My best loved meal would be {v}. => {n}'s best loved meal is {v}
s: Whenever I celebrate I cook {v}. => {n} cooks {v} to celebrate
c: I crave {v} nowadays instead of {old}. => {n} craves {v}
c: My best loved meal was {old}, today it is {v}. => {n}'s best loved meal is {v}
c: I celebrate with {v} rather than {old}. => {n} celebrates with {v}
q: Which meal does {who} crave?
q: Name the best loved meal of {who}.
a: craving {v}
""",
    "film": """
s: I rewatch {v} whenever it rains. => {n} rewatches {v}
s: My top movie remains {v}. => {n}'s top movie is {v}
s: I rate {v} above all other movies. => {n} rates {v} above all movies
c: I rate {v} above {old} since last night. => {n} rates {v} above all movies
c: My top movie was {old}, today it is {v}. => {n}'s top movie is {v}
c: I rewatch {v} rather than {old}. => {n} rewatches {v}
q: Which movie does {who} rate highest?
q: Name the top movie of {who}.
a: rewatching {v}
""",
    "sister": """
s: My only sibling is {v}. => {n}'s only sibling is {v}
s: I have one sibling, a girl named {v}. => {n} has a sibling named {v}
s: My parents named their other daughter {v}. => {n}'s parents named a daughter {v}
q: Name the sibling of {who}.
q: Which sibling did the parents raise alongside {who}?
a: having a sibling named {v}
""",
    "language": """
s: I am becoming fluent in {v}. => {n} is becoming fluent in {v}
s: I revise my {v} vocabulary on trains. => {n} revises {v} vocabulary
s: A coach drills me in {v}. => a coach drills {n} in {v}
c: I abandoned {old} to revise {v} vocabulary. => {n} revises {v} vocabulary
c: My coach drills me in {v} rather than {old}. => a coach drills {n} in {v}
c: I am becoming fluent in {v}, having dropped {old}. => {n} is becoming fluent in {v}
q: Which tongue is {who} becoming fluent in?
q: Name the tongue that {who} revises.
a: becoming fluent in {v}
""",
    "sport": """
s: I exercise by doing {v}. => {n} exercises by doing {v}
s: I compete in {v} each season. => {n} competes in {v}
s: I keep in shape with {v}. => {n} keeps in shape with {v}
c: I compete in {v} since I retired from {old}. => {n} competes in {v}
c: I keep in shape with {v} rather than {old}. => {n} keeps in shape with {v}
c: I exercise by doing {v}, as {old} hurt my back. => {n} exercises by doing {v}
q: Which activity does {who} compete in?
q: How does {who} keep in shape?
a: competing in {v}
""",
    "band": """
s: I worship the music of {v}. => {n} worships the music of {v}
s: My headphones always blast {v}. => {n}'s headphones blast {v}
s: I queued all night to watch {v}. => {n} queued to watch {v}
c: I worship {v} since {old} split up. => {n} worships {v}
c: My headphones blast {v} rather than {old}. => {n}'s headphones blast {v}
c: I outgrew {old} and queued to watch {v}. => {n} queued to watch {v}
q: Which music group does {who} worship?
q: Name the music group dear to {who}.
a: worshipping {v}
""",
    "drink": """
s: I sip {av} each morning. => {n} sips {av} each morning
s: I order {av} wherever I go. => {n} orders {av}
s: Baristas know I want {av}. => {n} wants {av} from baristas
c: I sip {av} rather than {aold}. => {n} sips {av}
c: I order {av} since the {old} upset my stomach. => {n} orders {av}
c: Baristas know I want {av}, never again {aold}. => {n} wants {av} from baristas
q: Which beverage does {who} sip?
q: Name the beverage that {who} orders.
a: sipping {av}
""",
    "phone": """
s: I text using {av}. => {n} texts using {av}
s: My handset is {av}, slightly scratched. => {n}'s handset is {av}
s: I charge my {v} overnight. => {n} charges {av}
c: I text using {av} since my {old} cracked. => {n} texts using {av}
c: My handset, {av}, replaces the {old}. => {n}'s handset is {av}
c: I recycled my {old} and charge {av} instead. => {n} charges {av}
q: Which handset does {who} text with?
q: Name the handset of {who}.
a: texting with {av}
""",
    "class": """
s: I enrolled in {v} tuition. => {n} enrolled in {v} tuition
s: I attend {v} workshops. => {n} attends {v} workshops
s: I reserved my seat in {v} workshops. => {n} reserved a seat in {v} workshops
w: I withdrew from the {v} workshops.
w: I cannot attend {v} tuition any longer.
w: I cancelled those {v} workshops.
q: Which workshop does {who} continue to attend?
q: What tuition does {who} continue to attend?
""",
    "club": """
s: I belong to the {v} society. => {n} belongs to the {v} society
s: I entered the {v} society recently. => {n} entered the {v} society
s: The {v} society welcomed me. => the {v} society welcomed {n}
w: I walked out of the {v} society.
w: My membership with the {v} society lapsed.
w: I do not belong to the {v} society any longer.
q: Which society does {who} continue to belong to?
q: Name the society that {who} stayed with.
""",
    "magazine": """
s: I ordered a year of {v}. => {n} ordered a year of {v}
s: The postman brings me {v}. => {n} gets {v} from the postman
s: I collect issues of {v}. => {n} collects issues of {v}
w: I told the postman to stop bringing {v}.
w: I let {v} lapse after a year.
w: I quit collecting issues of {v}.
q: Which periodical does {who} continue to collect?
q: What periodical does the postman continue bringing {who}?
""",
    "charity": """
s: I assist at the {v}. => {n} assists at the {v}
s: I donate spare hours to the {v}. => {n} donates spare hours to the {v}
s: I serve unpaid at the {v}. => {n} serves unpaid at the {v}
w: I quit assisting at the {v}.
w: I donate no further hours to the {v}.
w: I walked away from the {v}.
q: Where does {who} continue assisting?
q: Which place continues receiving spare hours from {who}?
""",
    "wish": """
s: I hope to purchase {av}. => {n} hopes to purchase {av}
s: My household lacks {av}. => {n}'s household lacks {av}
s: I keep browsing shops for {av}. => {n} browses shops for {av}
w: I will never purchase the {v}, too expensive.
w: I scrapped my plan to purchase the {v}.
w: Somebody lent me the {v}, so no purchase.
q: What does {who} continue hoping to purchase?
q: Which item does the household of {who} continue to lack?
""",
    "trip": """
s: I depart for {v}, and {d} is the day. => {n} departs for {v}, {d}
s: Mark {d}, that day I visit {v}. => {n} visits {v}, {d}
s: My cruise to {v} departs {d}. => {n}'s cruise to {v} departs {d}
u: I am finally visiting {v}. => {n} is finally visiting {v}
u: I reserved a cruise to {v}. => {n} reserved a cruise to {v}
r: Regarding {v}, departure will be {d}. => {m}, {d}
r: We depart for {v} come {d}. => {m}, {d}
c: My departure for {v} got delayed until {d}.
c: I depart for {v} come {d} instead.
c: Storms! My cruise to {v} waits until {d}.
q: What day does {who} depart for {v}?
q: Name the day that {who} visits {v}.
""",
    "appointment": """
s: The {v} expects me {d}. => the {v} expects {n}, {d}
s: Mark {d}, that day I consult the {v}. => {n} consults the {v}, {d}
s: My {v} consultation happens {d}. => {n}'s {v} consultation happens {d}
u: I requested a consultation from the {v}. => {n} requested a consultation from the {v}
u: I should consult the {v}. => {n} should consult the {v}
r: Regarding the {v}, they expect me {d}. => {m}, {d}
r: The {v} confirmed my consultation, {d}. => {m}, {d}
c: The {v} postponed my consultation until {d}.
c: The {v} expects me {d} instead.
c: My {v} consultation got delayed until {d}.
q: What day does the {v} expect {who}?
q: Name the day that {who} consults the {v}.
""",
    "concert": """
s: I attend the {v} recital {d}. => {n} attends the {v} recital, {d}
s: Mark {d}, that day I conduct {v}. => {n} conducts {v}, {d}
s: Our {v} recital happens {d}. => {n}'s {v} recital happens {d}
u: I am rehearsing for the {v} recital. => {n} is rehearsing for the {v} recital
u: I got invited to the {v} recital. => {n} got invited to the {v} recital
r: Regarding {v}, curtains rise {d}. => {m}, {d}
r: That {v} recital happens {d}. => {m}, {d}
c: The {v} recital was postponed until {d}.
c: Our soloist fell ill, {v} happens {d} instead.
c: That {v} recital got delayed until {d}.
q: What day does {who} experience {v}?
q: Name the day of the {v} recital for {who}.
""",
    "exam": """
s: I face the {v} assessment {d}. => {n} faces the {v} assessment, {d}
s: Mark {d}, that day I get assessed in {v}. => {n} gets assessed in {v}, {d}
s: My {v} assessment happens {d}. => {n}'s {v} assessment happens {d}
u: I am cramming for the {v} assessment. => {n} is cramming for the {v} assessment
u: I registered for assessment in {v}. => {n} registered for assessment in {v}
r: Regarding {v}, assessment day will be {d}. => {m}, {d}
r: The {v} assessment got scheduled {d}. => {m}, {d}
c: The {v} assessment was postponed until {d}.
c: Professors delayed the {v} assessment until {d}.
c: I face {v} come {d} instead.
q: What day does {who} face {v}?
q: Name the day of the {v} assessment for {who}.
""",
    "pet": """
s: I rescued {av}. => {n} rescued {av}
s: I brought home {av} from an animal shelter. => {n} brought home {av}
s: My animal companion is {av}. => {n}'s animal companion is {av}
r: I named the {v} {x}. => {m} named {x}
r: My {v} responds to {x}. => {m} named {x}
r: {x} seemed the right name for my {v}. => {m} named {x}
q: How did {who} name the {v}?
q: By what name does {who} address the {v}?
k: Which species is {x}, companion of {who}?
k: Tell me the species of {x}, companion of {who}.
a: having rescued {av}
""",
}

PEOPLE = {"train": ("the person", "the friend", "the speaker"), "heldout": ("the one", "that individual")}

OPENERS = {
    "train": (
        "Big news,",
        "Guess what,",
        "By the way,",
        "Oh,",
        "Well,",
        "So,",
        "You know what,",
        "Listen,",
        "Anyway,",
        "Actually,",
        "Funny thing,",
        "Small update,",
        "Just so you know,",
        "Before I forget,",
        "To be honest,",
        "Also,",
        "News from me,",
        "Not sure I told you,",
    ),
    "heldout": ("Bulletin:", "Quick headline:", "Truth be told,", "Hmm,", "Brace yourself:", "Incidentally,"),
}

JOINERS = {"train": ("",), "heldout": ("Besides,", "Meanwhile,")}

REPEATERS = {
    "train": ("As I said,", "Like I told you,", "As you know,", "I said it before,", "Once more,", "You may remember,"),
    "heldout": ("To repeat myself,", "Yet again for clarity,", "Same story:"),
}

TALK = {
    "train": """
* How was your week, {o}?
It rained all day here.
* Nice to hear from you, {o}!
I slept badly, but never mind.
* What a long day that was.
* Did you see the sunset tonight?
* That sounds lovely, {o}.
* I am so happy for you.
The bus was late again this morning.
My neighbours were noisy last night.
Time flies, it is almost the weekend.
* Let us catch up soon.
I need a break from all this.
* You always cheer me up, {o}.
The weather has been awful lately.
I just lit a candle.
* What are your plans for tonight?
* Oh dear, that is a pity.
I should really tidy up the kitchen.
* Good to talk to you again.
I had the strangest dream.
There was a power cut on our street.
* Have you been sleeping well?
It is so quiet here today.
* I hope you are feeling better.
I forgot my umbrella, typical me.
The shops were packed this afternoon.
* Ha, you made me laugh, {o}.
I can hardly keep my eyes open.
* Take care of yourself, {o}.
The garden looks great after the rain.
Fingers crossed for tomorrow.
* Thanks for asking, I am fine.
I am stuck in traffic, so we can chat.
My watch has stopped again.
* Tell me more about your day.
* We should meet for lunch some time.
* I could not agree more.
The kids next door are playing outside.
It was freezing on my walk.
* That reminds me of the old days.
* I will tell you the rest later.
* You sound tired, is all well?
My week has been busy but good.
I finally cleaned the windows.
* Sorry for the late reply, {o}.
* How is your family doing?
* Same here, nothing special to report.
I cannot wait for the summer.
* Wow, I did not expect that.
""",
    "heldout": """
* Hello again {o}, you look cheerful.
Fog everywhere, nobody could see a thing.
* Laundry day, my favourite chore, not.
* Everything alright over there, {o}?
* That is wonderful, well done.
My alarm rang far too early.
Somebody left the gate open overnight.
* Honestly, Mondays should be banned.
* Lovely chatting, as ever.
* Have you noticed how dark evenings get?
Somehow my socks keep vanishing.
* Your jokes are terrible, {o}, keep going.
Pigeons woke me at sunrise.
Crowded trains, crowded streets, what chaos.
* Any gossip from your side?
* Such a mess, whatever next?
* Hang on, someone is at the door.
* Right, where were we?
* I nearly missed your call.
Everyone around me keeps sneezing.
Dust gathers faster than I can sweep.
Gulls stole half of my sandwich.
Our lift broke down halfway up.
Four parcels arrived, none were mine.
* Splendid, {o}, simply splendid.
* Goodness, who would have guessed?
""",
}
