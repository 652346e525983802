select name, city, state, auction.id
from auction join person on seller = person.id
where category = 10 and state in ('OR', 'ID', 'CA')
