select person.id, name, date_bin(interval '10 seconds', person.date_time) as starttime
from person join auction on person.id = seller
  and date_bin(interval '10 seconds', person.date_time) = date_bin(interval '10 seconds', auction.date_time)
group by person.id, name, starttime
