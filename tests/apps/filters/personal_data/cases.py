"""Texts of code, logs, pages and letters: in NOT_PERSONAL nothing is personal, in PERSONAL the datum named is."""

NOT_PERSONAL = """
evens = rows[::2]
odds = rows[1::2]; back = rows[10::3]; part = a[::-1]; grid[2001::2, ::4]
x = df.iloc[2400::16]
std::vector<int> v1; std::map<a, b>::iterator it; ns::fn::g2()
use core::fmt::{self, Display}; let a = Foo::new(0xfeed);
h = x@w.sum(0) + b
y = a@h.view(-1); z = q@k.mT; p = x@w.to(device); r = A@B.T
out = (x@self.weight.data) + self.bias
grad = g@params.kernel
@app.route("/users")
@pytest.mark.parametrize("x", [1])
@media screen and (min-width: 600px)
"@babel/core@7.1.2": { "version": "7.1.2" }
npm install left-pad@1.3.0 react@18.2.0-rc.1 @types/node@20.11.5
image: registry/app@sha256:9b7f9b0e3c5c4f2a9b7f9b0e3c5c4f2a9b7f9b0e3c5c4f2a9b7f9b0e3c5c4f2a
git+ssh://git@github.com/org/repo.git#v1.2.3
git@github.com:org/repo.git and git@gitlab.example.com:group/project.git
url = https://user:password@example.com/path
icon@2x.png logo@3x.webp banner@2x.zip
systemctl status getty@tty1.service wg-quick@wg0.service
numpydoc==1.2.3.4
imgtool>=4.5.0.62,<5.1.2.3
foo~=2.0.1.9; bar !=1.0.0.1; "baz": "^1.4.2.11"
[assembly: AssemblyVersion("1.0.0.12")]
<version>4.2.1.77</version>
Mozilla/5.0 (X11) Chrome/91.0.4472.124 Safari/537.36 Edg/4.0.249.0
Firmware 3.14.15.92 fixes it; see section 8.2.4.44 and clause 1.2.3.4.
v1.2.3.4-beta is out, release 10.2.0.1 follows, build 6.1.7601.17514
2.3.1.4 Scope of this part
token = get_token_v2(session)
access_token = reply1.json()['t']
password = make_password_hash256(pw)
secret_key = settings.SECRET_KEY2
def login(user: str, password: Optional[str] = None, token: Token2 = None): ...
token: str = field(default_factory=lambda: uuid4().hex)
api_key = os.environ["API_KEY_2"]
const token = process.env.GITHUB_TOKEN2;
password: ${DB_PASSWORD_1}
api_key: YOUR_API_KEY_123
export TOKEN=<your-token-1234>
secret: xxxxxxxxxxxx1
password = "********1"
Authorization: Bearer ${TOKEN}
Authorization: Bearer <token>
-H "Authorization: token $GITHUB_TOKEN"
{{ secret_token_1 }} and %SECRET_KEY1% are filled in later
max_tokens = 4096, num_tokens=128k, tokenizer: bert-base-uncased-v2
the token 3.5-turbo-16k-0613 costs less
csrf_token: csrf.generate_token1
secret = hashlib.sha256(data1).hexdigest()
self.password = request1.form2.get('password')
Call of the Barn sold 1 000 000 copies.
The text has about 1 250 000 characters. Each cell 1 200 000 units.
mobile 1 200 000 users, phone sales 3 000 000 a year
There are 2 147 483 648 of them, or 4 294 967 296.
It cost 1.234.567,89 euros, or 12 345 678 yen.
12:34:56 and 01:02:03
2024-03-01T12:34:56.123456+01:00 and 20240301123456
01.02.2024, 1/2/2024, 2024/02/01, 01-02-2024 to 05-02-2024
ISBN 978-3-16-148410-0, DOI 10.1000/182
ISBN-10: 0-306-40615-2; ISSN 0209-9683; EAN 4006381333931
arXiv:2101.00027, math-ph/0402063, doi:10.1111/j.0081-1750.00098
00:1B:44:11:3A:B7
52:54:00:12:34:56:78:9a is an EUI-64
SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU
fingerprint 43:51:43:a1:b5:fc:8b:b7:0a:3a:a9:b1:0f:66:73:a8
550e8400-e29b-41d4-a716-446655440000
da39a3ee5e6b4b0d3255bfef95601890afd80709
52.520008, 13.404954 and 40.7128 N, 74.0060 W
3.14159265358979 2.718281828 -1.4142135623731 +1.1234567
1 1 2 3 5 8 13 21 34 55 89 144 233 377 610 987 1597
01 02 03 04 05 06 07 08
0000000 4ff0 e8a1 0012 7f45 4c46 0201
1234 5678 9012 3456 7890 1234 5678 9012
4294967296 9223372036854775807 6364136223846793005 1103515245
rng = np.random.default_rng(4111111111111111)
| 2019 | 120 345 | 130 555 | 140 777 |
page 120-130-1400 is not there, see 12-34-5678
127.0.0.1:8000 0.0.0.0 255.255.255.0 ::1 localhost:5432
10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 2001:db8::/32 fe80::/10
oid 1.3.6.1.4.1.311.21.8
order 12345678-1234 of invoice INV-2024-000123
flight LH1234, gate B12, seat 23F, train ICE 1234 567
the password is required, the token expired, and the api key was missing
DE1234 and GB12 are plates, DE89 3704 0044 0532 0130 01 is mistyped
look at google dot com, or meet me at ten dot
x_at_y and sum_dot_product at run_dot_py
5 (at) most, or 3 [at] least
size = 600 x 800 x 1200, ratio 0.4142135
tel aviv 1234567 people, phone pole 7654321
const digits = "0123456789"
phone_id = 1234567890
192x168x001 and 1.2.3 and 1.2.3.4.5
$user@host.com is filled in, ${name}@example.com too
f"{user}@{host}.com"
foo@bar and root@localhost and a@b
first radiation constant 1.319 590 8951 e-15, 28 024.951 4242, 1.999 007 501 2699
see python_variable.cpp line 1453-1460, max_line=10000000
decoded_secret = base64.b64decode(secret[6:]); password = base64.b16encode(random_bytes[8:])
a comment line [3.3.2.4^1], ('Connectivity.Contract', '1.0.0.0')
The call 12345678 returned -1 after 123 456 789 calls.
Text 2 345 678 words, ring 7 654 321 times, cell 612 345 678 units
x = 5 :: Int; y = '5'::int; u8::from(3); f32::MAX; Ada::Bee::c3
a { color: red } a::before { content: "\\201C" } ::1
scp file1.txt host2:/tmp/ && rsync -a src@2024.bak dst
"name": "left-pad", "resolved": "left-pad@npm:1.3.0"
log.info("took %d ms", 1234567) # page 12 of 300
0x7fff5fbff8c0 in foo (x=0x100200300400) at main.c:42
AAAA-1234-BBBB-5678 is a serial; part no. 12-345-6789 and 1234-56-789
user_password_hash2 = hash_password2(user_password1)
print(f"{password1!r}")
if token == expected_token2: return
auth_token = self.client.login1(user).token2
"token": "string", "password": "string", "secretKey": "stringValue1"
bearer token-based-auth2 is used; basic authentication2 is not
-----BEGIN CERTIFICATE----- MIIB -----END CERTIFICATE-----
pub key: ssh-keygen -t ed25519
1.10.2.3.4 and 10.2.0.1-rc1 and 4.14.0.300
June 30 2024 415-5552, rooms 415-555, lines 2671-2680
@ada and @bob2 talk; see #12345678 and $1,234,567.89
+1.0.0, +12 dB, +100 200 units, 1+1234567890, C++11 2014
2^52 is 4503599627370496 and 2^62 is 4611686018427387904
s/foo@bar/baz@qux/g
""".strip().split("\n")

_PERSONAL = """
email|ada.b+list@mail.example.co.uk|Write to ada.b+list@mail.example.co.uk today.
email|ada@mail.example.org|From: Ada <ada@mail.example.org>
email|ada@mail.example.org|mailto:ada@mail.example.org?subject=hi
email|ada_b@mail.example.org|"email": "ada_b@mail.example.org",
email|bob@mail.example.org|ada@mail.example.org,bob@mail.example.org;eve@mail.example.org
email|ada@mail.example.org|# Copyright (C) 2024 Ada <ada@mail.example.org>
email|ADA@MAIL.EXAMPLE.ORG|SEND TO ADA@MAIL.EXAMPLE.ORG!
email|ada [at] mail [dot] example|ada [at] mail [dot] example
email|ada(at)mail.example.org|Kontakt: ada(at)mail.example.org
email|ada (at) mail (dot) example (dot) org|ada (at) mail (dot) example (dot) org
email|ada at mail dot example dot org|write to ada at mail dot example dot org please
email|ada AT mail DOT example DOT org|ada AT mail DOT example DOT org
email|ada{at}mail{dot}example{dot}org|ada{at}mail{dot}example{dot}org
email|ada＠mail.example.org|ada＠mail.example.org
email|jürgen@müller.example|jürgen@müller.example
email|ada&#64;mail.example.org|<a>ada&#64;mail.example.org</a>
email|ada%40mail.example.org|?to=ada%40mail.example.org&x=1
email|ada@mail.example.org|'Hi\\nada@mail.example.org'
email|"ada lovelace"@example.org|to "ada lovelace"@example.org now
email|ada@[192.0.2.1]|ada@[192.0.2.1]
email|ada@xn--bcher-kva.example|ada@xn--bcher-kva.example
email|12345678@qq.com|QQ: 12345678@qq.com
email|o'brien@mail.example.org|o'brien@mail.example.org wrote
email|иван@почта.рф|Пишите: иван@почта.рф
phone|(415) 555-2671|Reach us at (415) 555-2671.
phone|415-555-2671|Suite 300 415-555-2671
phone|415.555.2671|415.555.2671
phone|415-555-2671 x12|415-555-2671 x12
phone|(415) 555-2671 ext. 304|(415) 555-2671 ext. 304
phone|+1 415 555 2671|+1 415 555 2671
phone|1-415-555-2671|or 1-415-555-2671
phone|+14155552671|+14155552671
phone|4155552671|"phone": "4155552671"
phone|4155552671|<a href="tel:4155552671">call</a>
phone|415 555 2671|Cell: 415 555 2671
phone|030/901820-0|Tel.: 030/901820-0
phone|030 901820|Telefon 030 901820
phone|(030) 90 18 20|Fon (030) 90 18 20
phone|0171 1234567|Mobil: 0171 1234567
phone|+49 (0)30 901820|+49 (0)30 901820
phone|(020) 7946 0958|(020) 7946 0958
phone|+44 20 7946 0958|Suite 300 +44 20 7946 0958
phone|020 7946 0958|Room 1204 020 7946 0958
phone|020 7946 0958|12 020 7946 0958
phone|(415) 555-2671|Apt 5 (415) 555-2671
phone|+1 (415) 555-2671|+1 (415) 555-2671
phone|+1-415-555-2671, ext. 9|+1-415-555-2671, ext. 9
phone|1-800-555-0199|1-800-555-0199
phone|0171/1234567|Handy: 0171/1234567
phone|089 / 12 34 56 78|Tel. 089 / 12 34 56 78
phone|+49-171-1234567|+49-171-1234567
phone|+41 44 668 18 00|+41 44 668 18 00
phone|044 668 18 00|Tel. 044 668 18 00
phone|+34 612 34 56 78|+34 612 34 56 78
phone|4155552671|my number is 4155552671
phone|415/555-2671|415/555-2671
phone|0049 30 901820|Fax 0049 30 901820
phone|020 7946 0958|ring me on 020 7946 0958
phone|+44 20 7946 0958|WhatsApp +44 20 7946 0958
phone|07700 900123|text me on 07700 900123
phone|020 7946 0958|12 High Street, London. 020 7946 0958
phone|01 23 45 67 89|Tél. : 01 23 45 67 89
phone|06.12.34.56.78|Portable : 06.12.34.56.78
phone|+33 1 23 45 67 89|+33 1 23 45 67 89
phone|612 345 678|Móvil: 612 345 678
phone|02 1234 5678|Telefono 02 1234 5678
phone|03-1234-5678|電話番号：03-1234-5678
phone|010-1234-5678|전화 010-1234-5678
phone|138 0013 8000|手机：138 0013 8000
phone|+7 (495) 123-45-67|Тел. +7 (495) 123-45-67
phone|+91 98765 43210|+91 98765 43210
phone|+55 11 91234-5678|+55 11 91234-5678
phone|08-123 456 78|Telefon: 08-123 456 78
phone|20 12 34 56|Tlf. 20 12 34 56
phone|555-0123|Phone: 555-0123
phone|０３－１２３４－５６７８|電話 ０３－１２３４－５６７８
ip|2001:db8::ff00:42:8329|Host 2001:db8::ff00:42:8329 is down.
ip|2001:db8::1|http://[2001:db8::1]:8080/
ip|fe80::1ff:fe23:4567:890a%eth0|ping fe80::1ff:fe23:4567:890a%eth0
ip|::ffff:192.0.2.7|from ::ffff:192.0.2.7
ip|2001:0db8:85a3:0000:0000:8a2e:0370:7334|2001:0db8:85a3:0000:0000:8a2e:0370:7334
ip|192.0.2.7|192.0.2.7:8080
ip|203.0.113.77|[203.0.113.77]:25
ip|203.0.113.77|(203.0.113.77)
ip|2001:db8::ff00:42:8329|2001:db8::ff00:42:8329/64
ip|2001:DB8::FF00:42:8329|[2001:DB8::FF00:42:8329]
ip|203.0.113.77|X-Real-IP: 203.0.113.77
ip|203.0.113.9|203.0.113.9 - - [01/Mar/2024:10:00:00 +0000] "GET / HTTP/1.1" 200
ip|198.51.100.23|Failed password for root from 198.51.100.23 port 22
ip|10.1.2.3|ssh root@10.1.2.3
ip|203.0.113.77|<td>203.0.113.77</td>
ip|192.168.1.17|inet 192.168.1.17/24
card|4111 1111 1111 1111|card 4111 1111 1111 1111 exp
card|4111111111111111|4111111111111111
card|5500-0000-0000-0004|MC 5500-0000-0000-0004 12/27
card|3782 822463 10005|Amex 3782 822463 10005
card|4111 1111 1111 1111|Suite 300 4111 1111 1111 1111
iban|DE89 3704 0044 0532 0130 00|DE89 3704 0044 0532 0130 00
iban|DE89370400440532013000|IBAN:DE89370400440532013000
iban|GB82 WEST 1234 5698 7654 32|GB82 WEST 1234 5698 7654 32
iban|fr14 2004 1010 0505 0001 3m02 606|fr14 2004 1010 0505 0001 3m02 606
ssn|123-45-6789|SSN 123-45-6789
ssn|123 45 6789|social security number: 123 45 6789
ssn|123456789|SSN: 123456789
ssn|123‑45‑6789|his is 123‑45‑6789
ssn|123-45-6789|Form 12 123-45-6789
key|ghp_16C7e42F292c6912E7710c838347Ae178B4a|token ghp_16C7e42F292c6912E7710c838347Ae178B4a
key|AKIAQ3EGUXN2Y7PLKZ5T|aws_access_key_id = AKIAQ3EGUXN2Y7PLKZ5T
key|wJ4lrXUtnF3MIK7MDENGbPxRfiCYzq9dLmTe8WaB|aws_secret_access_key = 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
key|a81bc81b3c9f4e0d9d3f2b1a0c7e5f64|api_key="a81bc81b3c9f4e0d9d3f2b1a0c7e5f64"
key|Zq8#rT2v!xK|password: Zq8#rT2v!xK
key|Summer2024!|"password": "Summer2024!"
key|s3cR7tpw9|postgres://ada:s3cR7tpw9@db.internal:5432/app
key|mF_9.B5f-4.1JqM7zX2|Authorization: Bearer mF_9.B5f-4.1JqM7zX2
key|YWRhOnMzY1I3dHB3OQ==|Authorization: Basic YWRhOnMzY1I3dHB3OQ==
""".strip().split("\n")


def _case(line: str) -> tuple[str, str, str]:
    """(kind, datum, text) of a line."""
    kind, datum, text = line.split("|", 2)
    return kind, datum, text


PERSONAL = [_case(line) for line in _PERSONAL]
